"""An artefact behind HTTP: the KServe v2 protocol, and requests joined into batches, without any server installed.

protocol   requests and answers, in JSON or with binary tensors; every check of what a client may send
batching   the bounded queue, and the one thread that runs the artefact
app        routes, limits, metrics
listen     opening the artefact, listening, stopping
"""

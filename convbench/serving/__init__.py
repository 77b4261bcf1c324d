"""An artefact behind HTTP: the KServe v2 protocol, and requests joined into batches, without any server installed.

served         what the artefact takes, by its manifest alone
protocol       requests and answers, in JSON or with binary tensors; every check of what a client may send
json_tensors   tensors as JSON, at a bounded cost
batching       the bounded queue, and the one thread that runs the artefact
limits         seconds, bytes and connections that clients may take
guard          connections that keep to them
bodies         the body of a request, as long as its client does its part
app            routes, metrics
server         the event loop, its start and its end
listen         opening the artefact, listening, stopping
load           `convbench load`, with connection (its HTTP) and description (what a server says of its model)
"""

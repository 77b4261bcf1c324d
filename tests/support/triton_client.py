"""Asks a Triton server, over HTTP and gRPC, from Triton's own environment: python triton_client.py HTTP GRPC IN OUT.

IN.npz holds x, t, y and cfg_scale; OUT.npz gets an output for each way of asking, OUT.json the errors that came back.
"""

import json
import sys
from importlib import import_module

import numpy as np

TYPES = {"float32": "FP32", "int64": "INT64"}


def main(http: str, grpc: str, given_file: str, out: str) -> None:
    given = dict(np.load(given_file))
    columns = {name: value if name == "x" else value[:, None] for name, value in given.items()}
    plain = {name: columns[name] for name in "xty"}
    outputs, errors = {}, {}
    for protocol, address in (("http", http), ("grpc", grpc)):
        library = import_module(f"tritonclient.{protocol}")
        more = {"concurrency": 8} if protocol == "http" else {}
        client = library.InferenceServerClient(address, **more)

        def inputs(values, library=library):
            asked = []
            for name, value in values.items():
                asked.append(library.InferInput(name, list(value.shape), TYPES[str(value.dtype)]))
                asked[-1].set_data_from_numpy(np.ascontiguousarray(value))
            return asked

        for model, values in (("tiny_dico", plain), ("tiny_dico_guided", columns)):
            outputs[f"{protocol} {model}"] = client.infer(model, inputs(values)).as_numpy("out")
        bad = {
            "wrong shape": ("tiny_dico", plain | {"x": plain["x"][:, :, 0]}),
            "too many images": ("tiny_dico", {name: np.repeat(value, 9, 0) for name, value in plain.items()}),
            "unknown model": ("other", plain),
            "misspelt input": ("tiny_dico", {"xx" if name == "x" else name: value for name, value in plain.items()}),
            "unknown class": ("tiny_dico", plain | {"y": plain["y"] + 11}),
            "unknown class, guided": ("tiny_dico_guided", columns | {"y": columns["y"] + 11}),
        }
        for what, (model, values) in bad.items():
            try:
                client.infer(model, inputs(values))
            except library.InferenceServerException as error:
                errors[f"{protocol} {what}"] = f"{error.status()}: {error.message()}"
        if protocol == "http":
            one = {name: value[:1] for name, value in plain.items()}
            waiting = [client.async_infer("tiny_dico", inputs(one)) for _ in range(24)]
            outputs["one at a time"] = np.concatenate([each.get_result().as_numpy("out") for each in waiting])
        client.close()
    np.savez(out + ".npz", **outputs)
    with open(out + ".json", "w") as file:
        json.dump(errors, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

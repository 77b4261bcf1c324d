"""Capabilities of a TensorRT library, probed in a separate process: without a driver some libraries crash.

``python -m convbench.export.tensorrt_probe MODULE`` writes one line of JSON.
"""

import json
import sys
from importlib import import_module
from typing import Any


def probe(name: str) -> dict[str, Any]:
    trt = import_module(name)
    found: dict[str, Any] = {"version": trt.__version__}
    print(json.dumps(found), flush=True)  # what is known before anything can crash
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    found["builder"] = trt.Builder(log) is not None
    print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    probe(sys.argv[1])

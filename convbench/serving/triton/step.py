"""Runs an artefact of convbench inside Triton's Python backend: one execution of the runtime for each batch.

This file is copied into the model repository as it is; what it needs to know stands in the config.pbtxt beside it.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "aoti": "torch"}


def opened(to: str, file: Path, threads: int) -> Callable[[Any, Any, Any], Any]:
    """The artefact as a function of x, t and y."""
    runtime = import_module(RUNTIMES[to])
    if to == "onnx":
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda x, t, y: session.run(["out"], {"x": x, "t": t, "y": y})[0]
    if to == "openvino":
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        compiled = runtime.Core().compile_model(str(file), "CPU", settings)
        return lambda x, t, y: compiled({"x": x, "t": t, "y": y})[0]
    if threads:
        runtime.set_num_threads(threads)
    loaded = import_module("torch._inductor").aoti_load_package(str(file))
    return lambda x, t, y: loaded(*(runtime.from_numpy(value.copy()) for value in (x, t, y))).numpy()


class TritonPythonModel:
    """Entry point of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        facts = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        file = Path(args["model_repository"], args["model_version"], facts["entry"])
        self.run = opened(facts["artefact"], file, int(facts["threads"]))
        self.last_class = int(facts["last_class"]) if facts.get("last_class") else None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Requests that the dynamic batcher joined; they have one height and width."""
        given = [
            [self.triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("x", "t", "y")]
            for request in requests
        ]
        refused = [self._refusal(y) for _, _, y in given]
        good = [tensors for tensors, reason in zip(given, refused, strict=True) if not reason]
        out = self.run(*(np.concatenate(values) for values in zip(*good, strict=True))) if good else np.empty(0)
        answers, at = [], 0
        for (x, _, _), reason in zip(given, refused, strict=True):
            if reason:
                answers.append(self._error(reason))
                continue
            part = np.ascontiguousarray(out[at : at + len(x)])
            answers.append(self.triton.InferenceResponse([self.triton.Tensor("out", part)]))
            at += len(x)
        return answers

    def _error(self, reason: str) -> Any:
        error = self.triton.TritonError
        return self.triton.InferenceResponse(error=error(reason, error.INVALID_ARG))

    def _refusal(self, y: Any) -> str | None:
        """An index outside its table would take the whole batch with it."""
        if self.last_class is None or ((y >= 0) & (y <= self.last_class)).all():
            return None
        return f"y must lie between 0 and {self.last_class}"

"""Classifier-free guidance inside Triton's Python backend: asks the model for each image with and without its class.

out = without + cfg_scale (with - without) in the first ``channels`` channels of the prediction, the rest as with the
class. This file is copied into the model repository as it is; its config.pbtxt names the model and its channels.
"""

import asyncio
import json
from importlib import import_module
from typing import Any

import numpy as np


class TritonPythonModel:
    """Entry point of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        self.triton: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        facts = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        self.model, self.null, self.channels = facts["model"], int(facts["null_class"]), int(facts["channels"])

    async def execute(self, requests: list[Any]) -> list[Any]:
        """The questions of all requests are asked at once, so that the model's own batcher can join them."""
        return list(await asyncio.gather(*(self._guided(request) for request in requests)))

    async def _guided(self, request: Any) -> Any:
        x, t, y, scale = (
            self.triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("x", "t", "y", "cfg_scale")
        )
        if not ((y >= 0) & (y <= self.null)).all():  # the kind of an error is lost on its way from the model
            error = self.triton.TritonError
            return self.triton.InferenceResponse(
                error=error(f"y must lie between 0 and {self.null}", error.INVALID_ARG)
            )
        t, y = t.reshape(-1, 1), y.reshape(-1, 1)
        answers = await asyncio.gather(self._ask(x, t, y), self._ask(x, t, np.full_like(y, self.null)))
        if failed := [answer.error() for answer in answers if answer.has_error()]:
            return self.triton.InferenceResponse(error=self.triton.TritonError(failed[0].message()))
        found, without = (self.triton.get_output_tensor_by_name(answer, "out").as_numpy() for answer in answers)
        out, n = found.copy(), self.channels
        out[:, :n] = without[:, :n] + scale.reshape(-1, 1, 1, 1) * (found[:, :n] - without[:, :n])
        return self.triton.InferenceResponse([self.triton.Tensor("out", out)])

    async def _ask(self, x: Any, t: Any, y: Any) -> Any:
        tensor = self.triton.Tensor
        request = self.triton.InferenceRequest(
            model_name=self.model,
            requested_output_names=["out"],
            inputs=[tensor("x", x), tensor("t", t), tensor("y", y)],
        )
        return await request.async_exec()

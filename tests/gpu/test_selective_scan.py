"""The selective scan on an NVIDIA GPU against the recurrence in float64."""

import pytest
import torch
from scans import inputs, recurrence

from convbench.models.selective_scan import SelectiveScan, implementation


@pytest.mark.parametrize("tokens", [17, 366, 1026])
def test_on_a_gpu_what_runs_agrees_with_the_recurrence(tokens: int) -> None:
    """By mamba-ssm where it is installed, whose exp has fewer digits; else by the same chunks as on a CPU."""
    arguments = inputs(tokens)
    skip, gate = torch.randn(5), torch.randn(arguments[0].shape)
    u = arguments[0].double()
    expected = (recurrence(*arguments) + skip.double()[:, None] * u) * torch.nn.functional.silu(gate.double())
    found = SelectiveScan()(*(v.cuda() for v in (*arguments, skip, gate))).cpu()
    error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert error < (1e-4 if implementation("cuda") == "mamba-ssm" else 1e-6)

"""External models: counted and measured like those of the zoo, or refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mynet
import pytest
import torch
from simulated import QUICK, Simulated

import convbench
from convbench import models
from convbench.catalogue import external, find
from convbench.checks.output import input_sets
from convbench.errors import UsageError
from convbench.measure import forward
from convbench.schema import Case

ROOT = Path(__file__).parents[2]


def test_macs_by_hand() -> None:
    """Two 3x3 convolutions between 3 and 16 channels on 8x8, and a linear layer from 1 to 16."""
    row = convbench.flops("mynet:net", res=8)
    assert row["macs"] == 2 * 9 * 3 * 16 * 64 + 16
    assert row["params"] == (9 * 3 * 16 + 16) + (9 * 16 * 3 + 3) + 2 * 16 + 11 * 16


def test_inputs_follow_the_declaration() -> None:
    x, t, y = input_sets(Case("mynet:net", 8, 5))[0]
    assert (x.shape, t.shape, y.shape) == ((5, 3, 8, 8), (5,), (5,))
    assert y.max() < 10 and t.max() < 1000
    assert len(input_sets(Case("mynet:classifier", 8, 5))) == 2  # a different x, but not t or y


@pytest.mark.parametrize("id", ["mynet:net", "mynet:classifier"])
def test_an_external_model_is_verified_and_timed(id: str) -> None:
    (result,) = forward.measure([Case(id, 8, 2, threads=1)], QUICK, clock=Simulated())
    assert result.status == "ok", result.reason
    assert result.images_per_s and result.error_vs_fp32 == 0


def test_a_model_that_ignores_a_declared_input_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mynet.classifier, "inputs", {**mynet.classifier.inputs, "takes": ("x", "y")})  # type: ignore[attr-defined]
    external.variant_of.cache_clear()
    (result,) = forward.measure([Case("mynet:classifier", 8, 2, threads=1)], QUICK, clock=Simulated())
    external.variant_of.cache_clear()
    assert (result.status, result.reason) == ("wrong", "DEP: 2 of 2 outputs do not change with y")


def test_the_weights_of_a_factory_are_kept_except_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = mynet.Net()
    monkeypatch.setattr(mynet, "Net", lambda: trained)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    after = models.create("mynet:net", res=8).state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == ["head.weight"]
    assert after["head.weight"].std() > 0


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("mynet:nothing", "no model at 'mynet:nothing': module 'mynet' has no attribute 'nothing'"),
        ("no_such_module:net", "no model at 'no_such_module:net': No module named 'no_such_module'"),
        ("mynet:NUMBER", "'mynet:NUMBER' is a int, not a function that takes a resolution and returns a network"),
        ("mynet:misdeclared", "'mynet:misdeclared' declares unknown inputs"),
        ("timm:convnext_base", "--model timm:convnext_base needs a package: pip install timm"),
        ("mynet", "unknown model 'mynet': `convbench models` lists all"),
    ],
)
def test_a_model_that_cannot_be_found_is_refused_in_one_line(
    id: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # makes its import fail even if it is installed
    with pytest.raises(UsageError) as error:
        find(id)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_factory_without_a_network_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^'mynet:no_network' returns a Tensor, not a torch.nn.Module$"):
        models.create("mynet:no_network", res=8)
    with pytest.raises(UsageError, match="must be a positive multiple of 4"):
        models.create("mynet:net", res=6)


def test_a_package_registers_models_as_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with metadata like those that pip installs."""
    info = tmp_path / "external-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: external\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[convbench.models]\nexternal_net = mynet:net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    external.variant_of.cache_clear()
    assert external.registered_names() == ["external_net"]
    assert convbench.flops("external_net", res=8)["macs"] == 2 * 9 * 3 * 16 * 64 + 16
    with pytest.raises(UsageError, match="did you mean external_net"):
        find("external_nat")
    external.variant_of.cache_clear()


UNET = {
    "_class_name": "UNet2DModel",
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64, 64],  # with 32, one channel per group, the group norms remove the effect of t and y
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "num_class_embeds": 10,
}
TRANSFORMER = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}


@pytest.mark.slow
@pytest.mark.parametrize(("config", "x", "out"), [(UNET, (2, 3, 64, 64), 3), (TRANSFORMER, (2, 4, 8, 8), 8)])
def test_a_diffusers_config_is_verified_and_timed(
    config: dict[str, Any], x: tuple[int, ...], out: int, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "config.json").write_text(json.dumps(config))
    case = Case(f"diffusers:{tmp_path}/config.json", 64, 2, threads=1)
    inputs = input_sets(case)[0]
    model = models.create(case.model, res=64)
    assert inputs[0].shape == x and model(*inputs).shape == (2, out, *x[2:])
    (result,) = forward.measure([case], QUICK, clock=Simulated())
    assert result.status == "ok", result.reason


@pytest.mark.parametrize("text", ["", "{}", '{"_class_name": "NoSuchModel"}'])
def test_an_invalid_config_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=rf"^{tmp_path}/config.json is not the configuration of a diffusers model: "):
        find(f"diffusers:{tmp_path}/config.json")


@pytest.mark.slow
def test_an_external_model_is_exported_verified_measured_and_reported(tmp_path: Path) -> None:
    """Run the commands in a folder that only contains the module."""
    (tmp_path / "theirs.py").write_text(Path(mynet.__file__).read_text("utf-8"), "utf-8")

    def convbench(line: str) -> str:
        command = [sys.executable, "-m", "convbench", *line.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    convbench("export --model theirs:net --res 8 --to onnx --out engine")
    (check,) = {json.loads((tmp_path / "engine/verification.json").read_text("utf-8"))["status"]}
    assert check == "passed"
    measured = json.loads(
        convbench("throughput --model theirs:net --res 8 --threads 1 --cap 0.1 --out run.jsonl --format json")
    )
    (reported,) = json.loads(convbench("report run.jsonl --format json"))
    assert reported["model"] == "theirs:net" and reported["images_per_s"] == measured[0]["images_per_s"]

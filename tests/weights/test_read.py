"""Checkpoints as the official scripts save them load exactly; anything else is refused in one line, and nothing runs.

Most files belong to a DiCo or DiT of width 16, which loads under the name of a variant. Files of the real variants
hold shapes only: every tensor is one stored zero, expanded.
"""

import argparse
import os
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from formula import formula_model, golden
from safetensors.torch import save_file
from tolerances import assert_close
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import Variant, find, variants
from convbench.errors import WeightsError
from convbench.models import load_weights
from convbench.models.dico import DiCo
from convbench.models.dit import DiT
from convbench.models.random_weights import fill
from convbench.weights.read import WRAPPERS, read_state_dict

TINY = replace(find("dico_s"), id="dico_tiny")
State = dict[str, Tensor]
TWINS = [("dit_xl_2", "sit_xl_2")]


def tiny(seed: int = 0) -> nn.Module:
    model = DiCo(16, (1, 1, 1, 1, 1))
    fill(model, seed)
    return model


def tiny_dit(res: int = 64) -> nn.Module:
    model = DiT(16, depth=1, heads=2, patch=2, res=res)
    fill(model)
    return model


@pytest.fixture(scope="module")
def state() -> State:
    """What the files hold, unlike the weights of ``tiny()`` itself."""
    return dict(tiny(seed=1).state_dict())


def assert_loads(path: Path, expected: State, variant: Variant = TINY) -> None:
    model = tiny()
    load_weights(model, str(path), variant)
    found = model.state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value.to(found[key].dtype)), key


def refusal(path: Path, model: nn.Module | None = None, variant: Variant = TINY) -> str:
    """The one line that says why a file is not loaded, without the folder; the model keeps its weights."""
    model = model or tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(model, str(path), variant)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 400 + len(str(path))
    return message.replace(f"{path.parent}{os.sep}", "")


def shapes_of(id: str, res: int | None = None) -> State:
    """A file of a few kilobytes in the shape of a variant, at its own resolution unless told otherwise."""
    on_meta = models.on_meta(find(id), res or find(id).res).state_dict()
    return {key: torch.zeros(()).expand(value.shape) for key, value in on_meta.items()}


# ---- what loads ----


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_bare_state_dict(tmp_path: Path, state: State, suffix: str) -> None:
    torch.save(state, tmp_path / f"weights{suffix}")
    assert_loads(tmp_path / f"weights{suffix}", state)


def test_a_file_of_torch_before_1_6(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "old.pt", state)


def test_a_safetensors_file(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    assert_loads(tmp_path / "weights.safetensors", state)


def test_a_file_of_the_official_training_scripts(tmp_path: Path, state: State) -> None:
    """DiT's train.py and those after it: averaged weights beside the last ones, optimiser state, parsed arguments."""
    last = tiny(seed=2)
    optimizer = torch.optim.AdamW(last.parameters(), lr=1e-4)
    sum(p.sum() for p in last.parameters()).backward()
    optimizer.step()
    arguments = argparse.Namespace(model="DiCo-S", image_size=256, data_path="/data", lr=1e-4, ckpt=None, flags=[1, 2])
    content = {"model": last.state_dict(), "ema": state, "opt": optimizer.state_dict(), "args": arguments}
    torch.save(content, tmp_path / "0400000.pt")
    assert_loads(tmp_path / "0400000.pt", state)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_state_dict_under_a_common_key(tmp_path: Path, state: State, wrapper: str) -> None:
    torch.save({"epoch": 3, wrapper: state}, tmp_path / "weights.pt")
    assert_loads(tmp_path / "weights.pt", state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapping_modules_are_removed(tmp_path: Path, state: State, prefix: str) -> None:
    """As left by DistributedDataParallel and torch.compile."""
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "weights.pt")
    assert_loads(tmp_path / "weights.pt", state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_precisions_are_cast_to_the_model(tmp_path: Path, state: State, kind: torch.dtype, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    cast = {key: value.to(kind) for key, value in state.items()}
    save_file(cast, path) if suffix == ".safetensors" else torch.save(cast, path)
    assert_loads(path, cast)
    model = tiny()
    load_weights(model, str(path), TINY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_parameters_that_require_gradients_are_read(tmp_path: Path) -> None:
    model = tiny(seed=1)
    torch.save(dict(model.named_parameters()), tmp_path / "parameters.pt")
    assert_loads(tmp_path / "parameters.pt", model.state_dict())


def test_a_fixed_table_may_be_absent(tmp_path: Path) -> None:
    model, other = tiny_dit(), tiny_dit()
    fill(other, seed=1)
    content = other.state_dict()
    table = content.pop("pos_embed").clone()
    torch.save(content, tmp_path / "weights.pt")
    load_weights(model, str(tmp_path / "weights.pt"), find("dit_s_2"))
    assert torch.equal(model.state_dict()["pos_embed"], table)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in content.items())


@pytest.mark.parametrize(("id", "suffix"), [("dit_s_2", ".safetensors"), ("fcdm_s", ".pt")])
def test_create_reads_a_file_and_reproduces_the_official_output(tmp_path: Path, id: str, suffix: str) -> None:
    content = {key: value for key, value in formula_model(id).state_dict().items() if key != "pos_embed"}
    path = tmp_path / f"{id}{suffix}"
    save_file(content, path) if suffix == ".safetensors" else torch.save({"ema": content}, path)
    model = models.create(id, weights=str(path))
    path.unlink()  # nothing of the model lies in the file any more
    stored = golden(id)
    assert not any(p.requires_grad for p in model.parameters())
    assert_close(model(stored["x"], stored["t"], stored["y"]), stored["out"], "fp32")


# ---- files of something else ----


@pytest.mark.long_grid
@pytest.mark.parametrize("id", list(variants()))
def test_a_file_of_a_different_variant_names_the_matching_one(tmp_path: Path, id: str) -> None:
    """Of every variant, with shapes alone; so no two variants have the same keys and shapes, but DiT and SiT."""
    torch.save(shapes_of(id), tmp_path / "weights.pt")
    message = refusal(tmp_path / "weights.pt")
    assert message.startswith("weights.pt is not a checkpoint of dico_tiny: ")
    fits = " or ".join(next((twins for twins in TWINS if id in twins), (id,)))
    assert message.endswith(f"; it matches {fits}")


def test_differences_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    """DiCo-B in DiCo-S: the same keys, every shape that depends on the width another."""
    torch.save(shapes_of("dico_b"), tmp_path / "b.pt")
    model = models.create("dico_s", device="meta")
    with pytest.raises(WeightsError) as caught:
        load_weights(model, str(tmp_path / "b.pt"), find("dico_s"))
    differ = len(model.state_dict()) - 1  # the bias of the last convolution has 8 values at every width
    assert str(caught.value) == (
        f"{tmp_path}/b.pt is not a checkpoint of dico_s: {differ} mis-shaped "
        "(first: x_embedder.proj.weight [256, 4, 3, 3], needs [128, 4, 3, 3]); it matches dico_b"
    )


def test_missing_and_unexpected_keys_are_counted_and_named(tmp_path: Path, state: State) -> None:
    content = dict(state)
    first = content.pop("x_embedder.proj.bias")
    content.pop("final_layer.out_proj.bias")
    torch.save({**content, "x_embedder.proj.extra": first}, tmp_path / "weights.pt")
    assert refusal(tmp_path / "weights.pt") == (
        "weights.pt is not a checkpoint of dico_tiny: 2 missing (first: x_embedder.proj.bias); "
        "1 unexpected (first: x_embedder.proj.extra); it matches no known variant"
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"x_embedder.proj.bias": None}, "1 missing (first: x_embedder.proj.bias)"),
        ({"extra": torch.zeros(1)}, "1 unexpected (first: extra)"),
        ({"x_embedder.proj.bias": torch.zeros(1)}, "1 mis-shaped (first: x_embedder.proj.bias [1], needs [16])"),
    ],
    ids=["missing", "unexpected", "mis-shaped"],
)
def test_one_difference_is_sufficient(tmp_path: Path, state: State, change: dict[str, Any], difference: str) -> None:
    torch.save({key: value for key, value in {**state, **change}.items() if value is not None}, tmp_path / "weights.pt")
    message = refusal(tmp_path / "weights.pt")
    assert message == f"weights.pt is not a checkpoint of dico_tiny: {difference}; it matches no known variant"


def test_a_table_for_a_different_resolution_is_named(tmp_path: Path) -> None:
    torch.save(tiny_dit(res=128).state_dict(), tmp_path / "weights.pt")
    assert refusal(tmp_path / "weights.pt", tiny_dit(res=64), find("dit_s_2")) == (
        "weights.pt was made for a different resolution: a 8x8 token grid, needs 4x4"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "found: nothing"),
        ({"epoch": 3, "args": argparse.Namespace(lr=1)}, "found: epoch, args"),
        ({"ema": {"step": 1}}, "found: ema"),
    ],
    ids=["empty", "no tensors", "no tensors inside"],
)
def test_a_dictionary_without_tensors_is_refused(tmp_path: Path, content: dict[str, Any], reason: str) -> None:
    torch.save(content, tmp_path / "weights.pt")
    message = refusal(tmp_path / "weights.pt")
    assert message.startswith("weights.pt contains no tensors under its own keys or under ema, ")
    assert message.endswith(f"({reason})")


def test_an_empty_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "weights.safetensors")
    assert "contains no tensors" in refusal(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("content", "kind"),
    [([torch.zeros(1)], "list"), (torch.zeros(1), "Tensor"), (5, "int"), (None, "NoneType")],
    ids=str,
)
def test_a_file_without_a_dictionary_is_refused(tmp_path: Path, content: Any, kind: str) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert refusal(tmp_path / "weights.pt") == f"weights.pt contains a {kind}, not a state dict"


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"^no checkpoint at {tmp_path}/{name}$"):
        read_state_dict(str(tmp_path / name))
    (tmp_path / name).mkdir()
    with pytest.raises(WeightsError, match=f"^no checkpoint at {tmp_path}/{name}$"):
        read_state_dict(str(tmp_path / name))


# ---- broken files ----


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("kept", [0, 3, 10, 1000, 0.5, -30, -1], ids=str)
def test_a_truncated_file_is_refused(tmp_path: Path, state: State, form: str, kept: float) -> None:
    """``kept`` bytes from the start, that share of them, or all but the last few."""
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    kind = "safetensors file" if form == "safetensors" else "PyTorch checkpoint"
    message = refusal(path)
    assert message.startswith(f"{path.name} is not a readable {kind}: ")
    assert "weights_only" not in message  # torch's advice to load it unsafely


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        b"<!DOCTYPE html>\n<html>Not found</html>\n",
        b'{"error": "Repository not found"}',
        b"\x00" * 100,
    ],
    ids=["git-lfs pointer", "web page", "json", "zeros"],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_a_different_kind_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"weights{suffix}").write_bytes(content)
    message = refusal(tmp_path / f"weights{suffix}")
    assert message.startswith(f"weights{suffix} is not a readable ")
    assert "weights_only" not in message


def test_a_suffix_that_does_not_match_the_content_is_refused(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "a.safetensors")
    save_file(state, tmp_path / "b.pt")
    assert refusal(tmp_path / "a.safetensors").startswith("a.safetensors is not a readable safetensors file: ")
    assert refusal(tmp_path / "b.pt").startswith("b.pt is not a readable PyTorch checkpoint: ")


@pytest.mark.parametrize("form", ["zip", "old"])
def test_damaged_files_raise_only_weights_errors(tmp_path: Path, form: str) -> None:
    """Bytes changed at random in the directory and the pickle: read, or refused in one line."""
    path = tmp_path / "weights.pt"
    torch.save(
        {"a.weight": torch.zeros(3), "b.weight": torch.ones(2)}, path, _use_new_zipfile_serialization=form == "zip"
    )
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 5, 50))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state_dict(str(path))
        except WeightsError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    assert 50 < refused < 200


# ---- files that would run code ----


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def plant(path: Path, content: Any, form: str) -> None:
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "old", "pickle 0", "pickle 2", "pickle 4", "pickle 5"])
@pytest.mark.parametrize("place", ["alone", "beside the weights", "among the weights"])
def test_code_in_a_file_is_never_executed(tmp_path: Path, state: State, form: str, place: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    weights: Any = state if not form.startswith("pickle") else {"x_embedder.proj.bias": 1}
    trap = Trap(canary)
    content = {
        "alone": trap,
        "beside the weights": {"model": weights, "args": trap},
        "among the weights": {**weights, "extra": trap},
    }[place]
    plant(path, content, form)

    message = refusal(path)
    assert not canary.exists()
    if not form.startswith("pickle"):
        assert message == (
            "weights.pt contains more than plain tensors and was not opened, as reading it could execute code: "
            "save the state dict alone, or as .safetensors"
        )

    # The trap is a real one: whoever reads the file without care springs it.
    if form.startswith("pickle"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_whole_pickled_module_is_not_opened(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt").startswith("model.pt contains more than plain tensors and was not opened")


def test_a_pickle_named_safetensors_is_not_unpickled(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.safetensors"
    plant(path, Trap(canary), "pickle 2")
    refusal(path)
    assert not canary.exists()

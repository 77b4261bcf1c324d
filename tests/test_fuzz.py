"""Random damage to what comes from outside: it is read, or refused in one printable line; nothing else is raised.

Every run tries the same examples (hypothesis derives them from the test itself), a quarter of a minute a target at
most on a slow core. ``FUZZ=100`` in the environment tries a hundred times as many, from a new seed.
"""

import copy
import io
import json
import math
import os
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import exported
import pytest
import served
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stored import measured

from convbench import store
from convbench.errors import ConvbenchError
from convbench.export import folder
from convbench.reports import runs
from convbench.serving import protocol
from convbench.serving.served import Served
from convbench.weights.read import read_state_dict

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("FUZZ", "1"))
MEMORY = 32 * 2**20


def fuzzed(examples: int) -> Any:
    """Settings of a target."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=TIMES * examples,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


TEXTS = st.text(max_size=8) | st.sampled_from(["", "\ud800", "\x1b[31m", "../x", "NaN", "0", "x" * 5000, "float32"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**400, 1e308, -0.0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=6,
)


def places(tree: Any) -> list[tuple[Any, ...]]:
    """Path of every value in a JSON tree."""
    keys = tree if isinstance(tree, dict) else range(min(len(tree), 5)) if isinstance(tree, list) else ()
    return [(key, *rest) for key in keys for rest in [(), *places(tree[key])]]


@st.composite
def changed_trees(draw: st.DrawFn, tree: Any) -> Any:
    """A JSON tree with one to three values exchanged, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        if not (known := places(tree)):
            break
        *path, last = draw(st.sampled_from(known))
        parent = tree
        for key in path:
            parent = parent[key]
        action = draw(st.sampled_from(["exchange", "exchange", "remove", "add"]))
        if action == "exchange":
            parent[last] = draw(VALUES)
        elif action == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            parent[draw(TEXTS)] = draw(VALUES)
        else:
            parent.append(draw(VALUES))
    return tree


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """Bytes with up to ``most`` stretches exchanged, removed, doubled or cut off."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(damaged) - 1)))
        length = draw(st.integers(1, 16))
        action = draw(st.sampled_from(["exchange", "remove", "double", "cut"]))
        if action == "exchange":
            damaged[at : at + length] = draw(st.binary(min_size=1, max_size=length))
        elif action == "remove":
            del damaged[at : at + length]
        elif action == "double":
            damaged[at:at] = damaged[at : at + length]
        else:
            del damaged[at:]
    return bytes(damaged)


def text(tree: Any) -> bytes:
    """JSON of a tree, with lone surrogates and numbers that JSON does not have."""
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def read_or_refused(read: Callable[[], Any]) -> bool:
    """Whether it was read. A refusal is one line."""
    try:
        read()
    except (ConvbenchError, protocol.Refused) as refused:
        assert str(refused) and len(str(refused)) < 4000
        assert "\n" not in str(refused) and "Traceback" not in str(refused)
        return False
    return True


# ---- checkpoints ----


def checkpoints() -> dict[str, bytes]:
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.int64)}
    pickled, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"model": state, "step": 3}, pickled)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    # The old form names storages by their addresses, which every run has others of.
    keys = sorted(set(re.findall(rb"\d{12,}", legacy.getvalue())))
    fixed = reduce(
        lambda content, key: content.replace(key, b"%0*d" % (len(key), keys.index(key))), keys, legacy.getvalue()
    )
    return {"zip.pt": pickled.getvalue(), "legacy.pt": fixed}


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "x.safetensors"])
def test_a_damaged_checkpoint_is_read_or_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "x.safetensors":
        save_file({"a.weight": torch.ones(3, 4), "b": torch.ones(2)}, path)
        content = path.read_bytes()
    else:
        content = checkpoints()[name]

    @fuzzed(2000)
    @given(changed_bytes(content))
    def target(damaged: bytes) -> None:
        path.write_bytes(damaged)
        read_or_refused(lambda: read_state_dict(str(path)))

    path.write_bytes(content)
    assert read_or_refused(lambda: read_state_dict(str(path)))
    target()


def test_a_safetensors_header_of_any_shape_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [48, 56]},
    }

    @fuzzed(1500)
    @given(changed_trees(header))
    def target(tree: Any) -> None:
        head = text(tree)
        path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(56))
        read_or_refused(lambda: read_state_dict(str(path)))

    target()


# ---- manifests ----


@pytest.fixture
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


def test_a_changed_manifest_is_read_or_refused(artefact: Path, tmp_path: Path) -> None:
    """What is read can be served, or is refused for that."""
    right = json.loads((artefact / "manifest.json").read_text("utf-8"))

    @fuzzed(2000)
    @given(changed_trees(right).map(text) | changed_bytes(text(right)))
    def target(content: bytes) -> None:
        (tmp_path / "manifest.json").write_bytes(content)
        read_or_refused(lambda: Served(folder.read(tmp_path), 8).max_body_bytes)

    target()


# ---- requests ----


def test_a_changed_request_is_read_or_refused_at_little_cost(artefact: Path) -> None:
    what = Served(replace(folder.read(artefact), batch=(1, 8)), 8)
    request = served.content(served.inputs(1, 8)) | {"id": "a", "parameters": {"binary_data_output": False}}
    request["outputs"] = [{"name": "out"}]
    head, raw = served.binary(served.inputs(2, 8))

    def parsed(body: bytes, length: str | None) -> None:
        asked = protocol.parse(body, length, what)
        assert asked.x.dtype == "float32" and 1 <= len(asked.x) == len(asked.t) == len(asked.y) <= 8
        assert math.isfinite(asked.x.sum()) and asked.y.min() >= 0 and asked.y.max() <= 10

    @fuzzed(800)
    @given(
        changed_trees(request).map(lambda tree: (text(tree), None))
        | changed_bytes(text(request)).map(lambda body: (body, None))
        | changed_trees(json.loads(head)).map(lambda tree: (text(tree) + raw, str(len(text(tree)))))
        | st.tuples(changed_bytes(head + raw), st.sampled_from([str(len(head)), "0", "-1", "x", "9" * 11]))
    )
    def target(case: tuple[bytes, str | None]) -> None:
        before, _ = tracemalloc.get_traced_memory()  # what Hypothesis keeps of other requests
        tracemalloc.reset_peak()
        read_or_refused(lambda: parsed(*case))
        assert tracemalloc.get_traced_memory()[1] - before < MEMORY

    tracemalloc.start()
    try:
        target()
    finally:
        tracemalloc.stop()


# ---- result files ----


@pytest.mark.parametrize("name", ["run.jsonl", "run.json"])
def test_a_changed_result_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    """A file that is read can be reported."""
    path = tmp_path / name
    row = measured(
        "dico_s", 100.0, block_s=[0.01, 0.02], ratio=1.1, ratio_low=1.0, ratio_high=1.2, smallest_difference=0.1
    )
    earlier = row | {"schema": 1, "kind": None, "case": "a", "compared_with": "b", "difference": "faster"}
    rows = [json.loads(json.dumps(row)), measured("dit_xl_2", 50.0), earlier, earlier | {"case": "b", "ratio": None}]

    def of(tree: list[Any]) -> bytes:
        return b"\n".join(map(text, tree)) + b"\n" if name == "run.jsonl" else text(tree)

    @fuzzed(400)
    @given(changed_trees(rows).map(of) | changed_bytes(of(rows)))
    def target(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refused(lambda: runs.read_runs([path]))
        if name == "run.jsonl":
            read_or_refused(lambda: store.load(path))

    target()

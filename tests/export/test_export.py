"""Real files of tiny networks: each proved against PyTorch, damaged on purpose, and the damage found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import pytest
import torch
from torch import nn

from convbench.catalogue import families
from convbench.errors import UsageError
from convbench.export import folder, locate, make, onnx, runtimes, verify
from convbench.export.shapes import Shapes
from convbench.models.random_weights import fill

Artefact = Callable[..., Path]
Damage = Callable[[Any], None]


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return lambda *what: exported.artefact(tmp_path_factory.getbasetemp(), *what)


def graph_of(path: Path) -> Any:
    import onnx as library

    return library.load(str(path / "model.onnx")).graph


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in graph_of(path).node}


def worst(found: dict[str, Any]) -> float:
    return max(row["relative_l2"] for row in found["checks"])


QUICK = ("dico",)
FAMILIES = [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in families()]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_onnx_file_computes_what_pytorch_computes(artefact: Artefact, family: str) -> None:
    sizes = exported.sizes(family)
    found = verify.check(artefact(family, "onnx"), exported.network(family), sizes)
    assert (found["status"], found["layer"]) == ("passed", None), found["reason"]
    assert worst(found) < 2e-6
    assert found["trajectory"]["ok"]
    rows, takes = found["checks"], sizes.takes
    assert {row["batch"] for row in rows} == {1, 2, 3, 8}
    assert min(row["t_from"] for row in rows) == pytest.approx(takes.time(0), rel=1e-7)  # as float32
    assert max(row["t_to"] for row in rows) == pytest.approx(takes.time(999), rel=1e-7)
    if not takes.caption:
        assert max(row["y_to"] for row in rows) == 10 - (not takes.null_class)  # no class, or the last one
    sides = {(row["height"], row["width"]) for row in rows}
    assert sides == ({(8, 8), (8, 12), (12, 8)} if family in exported.OF_ANY_SIZE else {(sizes.side,) * 2})


def test_dimensions_state_what_may_vary_and_by_which_multiple(artefact: Artefact) -> None:
    path = artefact("dico", "onnx")
    stated = {
        value.name: [extent.dim_param or extent.dim_value for extent in value.type.tensor_type.shape.dim]
        for value in (*graph_of(path).input, *graph_of(path).output)
    }
    expected = {"x": ["batch", 4, "4*h4", "4*w4"], "t": ["batch"], "y": ["batch"], "out": ["batch", 8, "4*h4", "4*w4"]}
    assert stated == expected
    manifest = folder.read(path)
    assert {port.name: list(port.shape) for port in (*manifest.inputs, *manifest.outputs)} == expected
    assert manifest.dimensions == {"batch": (1, 8), "h4": (2, 4), "w4": (2, 4)}


@pytest.mark.slow
def test_norms_and_attention_stay_one_operator(artefact: Artefact) -> None:
    assert "GroupNormalization" in kinds(artefact("dic", "onnx"))
    assert {"LayerNormalization", "Gelu", "DepthToSpace"} <= kinds(artefact("dico", "onnx"))
    assert "Attention" in kinds(artefact("dit", "onnx"))
    opsets = [folder.read(artefact(family, "onnx")).details["opset"] for family in ("dic", "dico", "dit")]
    assert opsets == [21, 21, 23]


def test_no_value_is_float64(artefact: Artefact) -> None:
    """TensorRT has none; the timestep code is computed from a table of them."""
    import onnx as library

    graph = graph_of(artefact("dico", "onnx"))
    casts = [attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute]
    kinds = {value.data_type for value in graph.initializer} | set(casts)
    assert kinds and library.TensorProto.DOUBLE not in kinds


def test_every_layer_can_be_looked_at(artefact: Artefact) -> None:
    path, network = artefact("dico", "onnx"), exported.network("dico")
    layers = json.loads((path / "layers.json").read_text())
    outputs = {layer["layer"] for layer in layers if layer["side"] == "out"}
    weighted = {name for name, module in network.named_modules() if list(module.parameters(recurse=False))}
    assert weighted <= outputs
    sizes = exported.sizes("dico")
    assert locate.first_difference(path, folder.read(path), network, sizes.example()) == {
        "layer": None,
        "relative_l2": None,
        "text": "no layer differs once its values are looked at: the runtime's own optimisation changes the result",
    }


# Damage


def change(name: str, by: float) -> Damage:
    """Add to one number of a weight."""

    def damage(graph: Any) -> None:
        from onnx import numpy_helper

        (tensor,) = [value for value in graph.initializer if value.name == name]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[1] += by
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return damage


def tanh_gelu(graph: Any) -> None:
    from onnx import helper

    node = [node for node in graph.node if node.op_type == "Gelu"][5]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("approximate", "tanh"))


def drop(name: str) -> Damage:
    """Take a convolution out, its input in place of its output."""

    def damage(graph: Any) -> None:
        (node,) = [node for node in graph.node if f"{name}.weight" in node.input]
        for other in graph.node:
            for index, value in enumerate(other.input):
                if value == node.output[0]:
                    other.input[index] = node.input[0]
        graph.node.remove(node)

    return damage


DAMAGES = {
    "one weight": (change("latent.0.conv4.weight", 0.5), "latent.0.conv4", "its own weights or its operator"),
    "one bias": (change("decoder_level_2.0.conv1.bias", 0.1), "decoder_level_2.0.conv1", "its own weights"),
    "of the embedding": (change("t_embedder_2.mlp.2.bias", 0.1), "t_embedder_2.mlp.2", "its own weights"),
    "a little, in the head": (change("final_layer.out_proj.bias", 1e-3), "final_layer.out_proj", "its own weights"),
    "tanh GELU": (tanh_gelu, "latent.0.conv5", "what it is given differs, behind the operators Gelu"),
    "dropped layer": (drop("encoder_level_2.0.conv1"), "encoder_level_2.0.conv1", "is missing from the file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_caught_and_the_layer_named(artefact: Artefact, tmp_path: Path, name: str) -> None:
    import onnx as library

    damage, layer, text = DAMAGES[name]
    path = tmp_path / "damaged"
    shutil.copytree(artefact("dico", "onnx"), path)
    model = library.load(str(path / "model.onnx"))
    damage(model.graph)
    library.save(model, str(path / "model.onnx"))
    folder.write(path, folder.read(path))  # the hashes are those of the damaged file: numbers alone must tell
    found = verify.check(path, exported.network("dico"), exported.sizes("dico"), takes_trajectory=False)
    assert found["status"] == "failed"
    assert found["layer"]["layer"] == layer
    assert text in found["reason"]


def test_a_file_of_another_checkpoint_differs_from_its_first_layer_on(artefact: Artefact) -> None:
    other = exported.network("dico")
    fill(other, seed=1)
    found = verify.check(artefact("dico", "onnx"), other, exported.sizes("dico"), takes_trajectory=False)
    assert found["status"] == "failed"
    assert found["layer"]["layer"] in {"x_embedder.proj", "t_embedder_1.mlp.0", "y_embedder.embedding_table_0"}


def test_a_file_that_was_exchanged_is_caught_by_its_hash(artefact: Artefact, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(artefact("dico", "onnx"), path)
    (path / "model.onnx").write_bytes(b"not a model")
    found = verify.check(path, exported.network("dico"), exported.sizes("dico"))
    assert found["status"] == "failed"
    assert found["reason"] == "model.onnx is not the file that was made: its SHA-256 differs"  # nothing was opened
    assert found["checks"] == []


# Other precisions and targets


@pytest.mark.slow
def test_half_precision_keeps_the_response_norm_wide(artefact: Artefact) -> None:
    pytest.importorskip("modelopt.onnx.autocast")
    import onnx as library

    path, network, sizes = artefact("fcdm", "onnx", "fp16"), exported.network("fcdm"), exported.sizes("fcdm")
    found = verify.check(path, network, sizes)
    assert found["status"] == "passed"
    assert 1e-5 < worst(found) < 2e-3  # half indeed
    graph = graph_of(path)
    halves = [value for value in graph.initializer if value.data_type == library.TensorProto.FLOAT16]
    assert len(halves) > 50
    (norms,) = [[node.output[0] for node in graph.node if node.op_type == kind] for kind in ("ReduceL2",)]
    divisions = [node.output[0] for node in graph.node if node.op_type == "Div" and set(node.input) & set(norms)]
    assert len(norms) == len(divisions) == 5
    given = dict(zip(("x", "t", "y"), (value.numpy() for value in sizes.example()), strict=True))
    from convbench.export import onnxruntime

    taps = [*norms, *divisions]
    assert {str(value.dtype) for value in onnxruntime.session(path / "model.onnx", taps=taps).run(taps, given)} == {
        "float32"
    }


@pytest.mark.slow
def test_int8_is_calibrated_on_a_trajectory_and_keeps_its_biases(artefact: Artefact) -> None:
    path = artefact("dico", "onnx", "int8")
    found = verify.check(path, exported.network("dico"), exported.sizes("dico"))
    assert found["status"] == "passed", found["reason"]
    assert 1e-3 < worst(found) < 1e-1
    details = folder.read(path).details
    assert (details["opset"], details["calibration"]) == (20, "16 steps of ddim, 2 images")
    graph = graph_of(path)
    import onnx as library

    whole = {value.name for value in graph.initializer if value.data_type == library.TensorProto.INT32}
    dequantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert dequantized and not dequantized & whole


@pytest.mark.slow
def test_openvino_agrees_and_a_damaged_file_is_located(artefact: Artefact, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    network, sizes = exported.network("dico"), exported.sizes("dico")
    path = artefact("dico", "openvino")
    found = verify.check(path, network, sizes)
    assert found["status"] == "passed" and worst(found) < 2e-6
    shutil.copytree(path, tmp_path / "damaged")
    weights = bytearray((path / "model.bin").read_bytes())
    stored = network.get_parameter("decoder_level_2.0.conv5.bias").numpy().tobytes()
    at = weights.find(stored)
    assert at >= 0
    weights[at : at + 4] = torch.tensor([0.5]).numpy().tobytes()
    (tmp_path / "damaged" / "model.bin").write_bytes(weights)
    folder.write(tmp_path / "damaged", folder.read(tmp_path / "damaged"))  # with the hash of the damaged file
    found = verify.check(tmp_path / "damaged", network, sizes, takes_trajectory=False)
    assert found["status"] == "failed"
    assert found["layer"]["layer"] == "decoder_level_2.0.conv5"


@pytest.mark.slow
def test_aotinductor_packs_its_weights_and_refuses_other_machines(artefact: Artefact) -> None:
    from convbench.export import aoti

    path = artefact("dico", "aoti")
    found = verify.check(path, exported.network("dico"), exported.sizes("dico"))
    assert found["status"] == "passed" and worst(found) < 2e-6
    manifest = folder.read(path)
    assert manifest.details["convolutions"] == 38
    assert manifest.details["packed_operators"] == aoti.packed_operators(path / "model.pt2") == 38 + 12
    with pytest.raises(UsageError, match=r"compiled by torch 2\.0\.0 and does not run with torch"):
        aoti.require_runnable({**manifest.target, "torch": "2.0.0"})
    with pytest.raises(UsageError, match="compiled for a processor with AVX1024"):
        aoti.require_runnable({**manifest.target, "capability": "AVX1024"})


@pytest.mark.slow
def test_tensorrt_rtx_builds_without_a_gpu_and_says_that_running_needs_one(artefact: Artefact, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from convbench.export import tensorrt

    path = artefact("dico", "tensorrt")
    manifest = folder.read(path)
    assert manifest.files["engine.plan"]["bytes"] > 2**20
    assert manifest.target["library"].startswith("TensorRT")
    assert manifest.details["profile"]["x"] == [[1, 4, 8, 8], [8, 4, 8, 8], [8, 4, 16, 16]]
    if not torch.cuda.is_available():
        found = verify.check(path, exported.network("dico"), exported.sizes("dico"))
        assert found["status"] == "unchecked" and "needs an NVIDIA GPU" in found["reason"]
        with pytest.raises(UsageError, match="needs an NVIDIA GPU"), runtimes.opened(path):
            pass
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(UsageError, match=r"TensorRT.* cannot read broken\.onnx"):
        tensorrt.build(tmp_path / "broken.onnx", exported.sizes("dico"), tmp_path)


# What is refused


def test_a_network_that_proves_nothing_is_refused() -> None:
    sizes, network = exported.sizes("dico"), exported.network("dico")
    with pytest.raises(UsageError, match="in training mode"):
        onnx.tried(network.train(), sizes)
    network = network.eval()
    network.get_submodule("final_layer.out_proj").apply(lambda layer: [nn.init.zeros_(p) for p in layer.parameters()])  # type: ignore[func-returns-value]
    with pytest.raises(UsageError, match="the output of the network is zero"):
        onnx.tried(network, sizes)
    network.get_parameter("final_layer.out_proj.bias").fill_(float("nan"))
    with pytest.raises(UsageError, match="not finite"):
        onnx.tried(network, sizes)


def test_a_wrong_export_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artefact: Artefact) -> None:
    source = artefact("dico", "onnx")

    def exchanged(network: nn.Module, sizes: Shapes, wanted: make.Wanted, into: Path, *_: Any) -> Any:
        for file in source.iterdir():
            shutil.copy(file, into)
        return folder.read(into)

    monkeypatch.setattr(make, "build", exchanged)
    wanted = make.Wanted("tiny:dic", exported.RES, "onnx", batch=(1, 8), dynamic=True)
    with pytest.raises(Exception, match=r"the exported file is wrong and was not kept: 7 of 7 comparisons") as caught:
        make.export(wanted, tmp_path / "out")
    assert getattr(caught.value, "exit_code", None) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "precision", "message"),
    [
        ("onnx", "fp8", "fp8 is not built"),
        ("aoti", "int8", r"--to aoti comes in fp32, not in int8"),
        ("coreml", "fp32", "unknown target 'coreml'; choose from onnx, tensorrt, openvino, aoti"),
    ],
)
def test_what_is_not_built_is_refused_before_any_work(to: str, precision: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make.require_supported(to, precision)

"""A network as a file that another runtime opens (ONNX, OpenVINO, AOTInductor, TensorRT, ncnn, MNN), and its proof.

An artefact is a folder, written whole or not at all:

    manifest.json       what it is: the fields of ``folder.Manifest``, and a "schema" number
    verification.json   how far it was from fp32 PyTorch when it was made; ``convbench verify`` rewrites it
    layers.json         ONNX and OpenVINO: which value of the graph is the output or the input of which layer
    README.md           for a colleague: what it takes, what it returns, how to run it
    model.onnx          ONNX; weights above 2 GB lie beside it in model.onnx.data, and the two must move together
    model.xml model.bin OpenVINO
    model.pt2           AOTInductor
    model.ncnn.param    ncnn, with model.ncnn.bin beside it
    model.mnn           MNN
    engine.plan         TensorRT or TensorRT-RTX, with timing.cache beside it

In every precision x and t go in and the output comes out as float32, y as int64 (a caption as float32). The names are
x, t, y and out. ``runtimes.opened(folder)`` opens any of them as a function of three tensors.

    folder     writing whole, manifest, hashes          make      what `convbench export` does
    shapes     batch range, sizes, divisibility         cache     artefacts that backends prepare once
    onnx, openvino, aoti, tensorrt, ncnn, mnn           runtimes  any artefact as a step
    autocast, quantize: reduced precision of ONNX       verify, locate: right or not, and where not
"""

TARGETS = ("onnx", "tensorrt", "openvino", "aoti", "ncnn", "mnn")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")

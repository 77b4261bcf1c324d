"""Formats of artefacts and the precisions that each comes in."""

TARGETS = ("onnx", "tensorrt", "openvino", "aoti", "ncnn", "mnn")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
SUPPORTED = {
    "onnx": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "aoti": ("fp32",),
    "ncnn": ("fp32",),
    "mnn": ("fp32",),
}

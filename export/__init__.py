"""Deployable artefacts: ONNX, TensorRT, AOTInductor and OpenVINO, their verification, deployment folders."""

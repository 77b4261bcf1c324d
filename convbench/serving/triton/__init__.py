"""A model repository for NVIDIA Triton Inference Server.

    repository   what `convbench deploy` writes: folders, config.pbtxt, a README
    step         copied into it as model.py where Triton itself cannot run the artefact: its Python backend does
    guidance     copied into it as model.py of the model NAME_guided: classifier-free guidance

step and guidance run inside Triton, with numpy and one runtime: they import nothing of convbench.
"""

"""Ahead-of-time compilation of every shipped kernel configuration, for GPUs that this machine need not have.

Triton brings its own assembler and disassembler, so neither a GPU nor a driver is needed.
"""

"""C++ kernels for a processor: compiled by the system's compiler when they are first used, and kept.

compiled       the library for this processor and compiler
winograd.cpp   3x3 convolution with norm, modulation, activation, bias, gate and residual
convolution    the same as an operator of PyTorch, and its packed weights
choice         which algorithm is the fastest for a shape, measured once
modules        layers of networks that use it
"""

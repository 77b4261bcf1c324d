"""The bench of the fused kernels: ``plan`` lists the work, ``stopwatch`` measures it, ``rows`` describes the result.

The figure of merit is the least traffic that an operation needs, by its own byte count, over the time it took, relative
to the copy rate measured right after it: the share of the memory's speed that it reaches.
"""

"""Entries of a state dict that are computed, not learned."""

from torch import nn

TABLES = ("pos_embed", "deformables_prior")  # parameters that some modules compute


def fixed_tables(model: nn.Module) -> set[str]:
    """Find the keys of a state dict that are not weights: indices, buffers and ``TABLES`` that a module computes."""
    fixed, buffers = set(), {name for name, _ in model.named_buffers()}
    for key, value in model.state_dict().items():
        owner, _, name = key.rpartition(".")
        computed = (name in TABLES or key in buffers) and hasattr(model.get_submodule(owner), "fill_tables")
        if computed or not value.is_floating_point():
            fixed.add(key)
    return fixed

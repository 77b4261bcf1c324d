"""Entries of a state dict that are computed and not learned."""

from torch import nn


def fixed_tables(model: nn.Module) -> set[str]:
    """Keys of the state dict that hold no weights: indices, and a buffer or ``pos_embed`` that its module computes."""
    fixed, buffers = set(), {name for name, _ in model.named_buffers()}
    for key, value in model.state_dict().items():
        owner, _, name = key.rpartition(".")
        computed = (name == "pos_embed" or key in buffers) and hasattr(model.get_submodule(owner), "fill_tables")
        if computed or not value.is_floating_point():
            fixed.add(key)
    return fixed

"""JiT's own parts: its rotary code, its context tokens, and what it refuses."""

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from convbench import models
from convbench.catalogue import find
from convbench.models.jit import CONTEXT_TOKENS, JiT, Rotary
from convbench.models.random_weights import fill

SIZE = {"width": 32, "depth": 3, "heads": 2, "patch": 4, "bottleneck": 8, "res": 16, "num_classes": 10}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(**options: int) -> JiT:
    network = JiT(**{**SIZE, "context_from": 1, **options}).eval().requires_grad_(False)
    fill(network)
    return network


@pytest.mark.parametrize(("width", "grid"), [(8, 3), (64, 4)])
def test_rotary_is_a_product_of_complex_numbers(width: int, grid: int) -> None:
    """Rows in the first half of the channels, columns in the second; the tokens of the context are left alone."""
    rotary = Rotary(width, grid)
    x = noise(0, 2, CONTEXT_TOKENS + grid**2, width)
    angle = torch.zeros(CONTEXT_TOKENS + grid**2, width // 2, dtype=torch.float64)
    for token in range(grid**2):
        for pair in range(width // 2):
            place = token // grid if pair < width // 4 else token % grid
            angle[CONTEXT_TOKENS + token, pair] = place * 10_000 ** (-4 * (pair % (width // 4)) / width)
    pairs = torch.view_as_complex(x.double().unflatten(2, (-1, 2)))
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(2)
    assert_close(rotary(x), expected, "fp32")
    assert torch.equal(rotary(x)[:, :CONTEXT_TOKENS], x[:, :CONTEXT_TOKENS])
    assert torch.equal(rotary(x[:, CONTEXT_TOKENS:]), rotary(x)[:, CONTEXT_TOKENS:])


@pytest.mark.parametrize("start", [0, 1, 2])
def test_context_tokens_start_at_one_block(start: int) -> None:
    network, seen = tiny(context_from=start), []
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    x, t, y = noise(1, 2, 3, 16, 16), torch.tensor([0.1, 0.9]), torch.tensor([3, 10])
    assert network(x, t, y).shape == x.shape
    assert seen == [16] * start + [16 + CONTEXT_TOKENS] * (3 - start)


def test_context_tokens_are_the_label_and_a_learned_table() -> None:
    network, seen = tiny(), []
    network.blocks[1].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    network(noise(2, 2, 3, 16, 16), torch.tensor([0.1, 0.9]), torch.tensor([3, 10]))
    rows = network.y_embedder.embedding_table.weight[[3, 10]]
    assert torch.equal(seen[0][:, :CONTEXT_TOKENS], rows[:, None] + network.in_context_posemb)


def test_a_different_side_is_refused_by_name() -> None:
    inputs = torch.tensor([0.5]), torch.tensor([3])
    with pytest.raises(ValueError, match=r"^this JiT is built for 16x16 images, got 32x32: create it with res=32$"):
        tiny()(noise(3, 1, 3, 32, 32), *inputs)
    with pytest.raises(ValueError, match=r"got 16x8: create it with res=16 \(square images only\)$"):
        tiny()(noise(3, 1, 3, 16, 8), *inputs)


def test_only_the_tables_depend_on_the_resolution() -> None:
    small, large = (models.on_meta(find("jit_b_16"), res).state_dict() for res in (64, 256))
    assert [key for key in small if small[key].shape != large[key].shape] == ["pos_embed"]

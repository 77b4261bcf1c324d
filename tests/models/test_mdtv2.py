"""MDTv2 against the statistics of the official output, its attention by hand, and where its skips come from."""

import math

import pytest
import torch
from fill import T_DEFAULT, Y_DEFAULT, generator, input_x
from formula import formula_model, token_rivals
from tolerances import assert_close
from torch import Tensor, nn

from convbench.models.layers import position_table
from convbench.models.mdtv2 import Attention, MDTv2
from convbench.models.random_weights import fill


def test_the_official_output_in_three_numbers() -> None:
    """Mean, deviation and the change from a timestep shifted by 3, to the six digits that are stored of them.

    An exact GELU moves the deviation by 2e-6, another eps by 3e-6, offsets the other way round the mean by 6e-5.
    """
    model, stored = formula_model("mdtv2_s_2"), token_rivals()["mdtv2_s_2"]["golden"]
    for name in ("pos_embed", "decoder_pos_embed"):  # both start as DiT's table
        drawn = torch.from_numpy(generator(name).standard_normal((1, 256, 384), dtype="float32"))
        model.get_parameter(name).data.copy_(position_table(384, 16) + 0.02 * drawn)
    x, t, y = torch.from_numpy(input_x()), torch.tensor(T_DEFAULT), torch.tensor(Y_DEFAULT)
    out = model(x, t, y).double()
    assert out.shape == (2, 8, 32, 32)
    assert out.mean().item() == pytest.approx(stored["out_mean"], abs=6e-7)
    assert out.std(correction=0).item() == pytest.approx(stored["out_std"], abs=6e-7)
    change = torch.linalg.vector_norm(model(x, t + 3, y).double() - out) / torch.linalg.vector_norm(out)
    assert change.item() == pytest.approx(stored["rel_change_t"], abs=6e-7)


def test_attention_with_its_bias_by_hand() -> None:
    """In single steps, in float64; the last rows of the table touch nothing."""
    layer = Attention(8, 2, 3).double().requires_grad_(False)
    bias = layer.rel_pos_bias
    table = bias.relative_position_bias_table
    table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q, k, v = layer.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT / math.sqrt(4)
    for i in range(9):
        for j in range(9):
            down, right = i // 3 - j // 3 + 2, i % 3 - j % 3 + 2
            scores[:, :, i, j] += table[5 * down + right]
    expected = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert_close(layer(x), expected, "fp64")
    assert len(table) == 25 + 3 and int(bias.relative_position_index.max()) == 24


def test_skips_are_taken_in_reverse_and_the_decoder_takes_the_input() -> None:
    """Seen from outside: what each block is given."""
    model = MDTv2(32, 6, 2, 2, 2, res=64, num_classes=10).eval().requires_grad_(False)
    fill(model)
    given: dict[str, tuple[Tensor, ...]] = {}
    made: dict[str, Tensor] = {}

    def watch(name: str, block: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            given[name], made[name] = args, out

        block.register_forward_hook(hook)

    for stack in ("en_inblocks", "en_outblocks", "de_blocks", "sideblocks"):
        for index, block in enumerate(getattr(model, stack)):
            watch(f"{stack}.{index}", block)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    model(x, torch.tensor([17.0, 903.0]), torch.tensor([2, 10]))
    embedded = model.x_embedder(x) + model.pos_embed
    assert torch.equal(given["en_inblocks.0"][0], embedded) and len(given["en_inblocks.0"]) == 2
    assert torch.equal(given["en_outblocks.0"][2], made["en_inblocks.1"])
    assert torch.equal(given["en_outblocks.1"][2], made["en_inblocks.0"])
    assert torch.equal(given["de_blocks.0"][0], made["en_outblocks.1"] + model.decoder_pos_embed)
    assert torch.equal(given["de_blocks.0"][2], embedded) and torch.equal(given["de_blocks.1"][2], embedded)
    assert "sideblocks.0" not in made


def test_a_different_side_is_refused_by_name() -> None:
    model = MDTv2(32, 6, 2, 2, 2, res=64, num_classes=10)
    with pytest.raises(ValueError, match=r"^this MDTv2 is built for 8x8 latents \(64 px\), got 16x16"):
        model(torch.zeros(1, 4, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.long))

"""Cuts of networks in parts, so that a sampler may keep the result of the inner one from an earlier step.

``inner(*entered)`` is most of the work. A network is ``leave(inner(*entered), *entered)`` with
``entered = enter(x, t, y)``. Every value is a tensor whose first axis is the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, cat, nn

from .dic import DiC
from .dico import DiCo
from .dit import DiT
from .fcdm import FCDM
from .layers import pixels_from_tokens

Entered = tuple[Tensor, ...]


@dataclass(frozen=True)
class Cut:
    """The three parts of one network."""

    enter: Callable[[Tensor, Tensor, Tensor], Entered]
    inner: Callable[..., Tensor]
    leave: Callable[..., Tensor]

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the whole network."""
        entered = self.enter(x, t, y)
        return self.leave(self.inner(*entered), *entered)


def cut_of(network: nn.Module) -> Cut | None:
    """Cut a network; None for one of a family that no cut is known of.

    U-shaped networks are cut around everything below full resolution, as DeepCache does, DiT behind its first block.
    """
    make = CUTS.get(type(network))
    return make(network) if make else None


def _of_dic(net: DiC) -> Cut:
    def enter(x: Tensor, t: Tensor, y: Tensor) -> Entered:
        skips: list[Tensor] = []
        c1 = net.t_embedder_ls[0](t) + net.y_embedder_ls[0](y)
        x = net.enc_blocks[0](net.x_embedder(x), c1, skips)  # (B, C, H, W)
        return x, c1, t, y, *skips

    def inner(x: Tensor, c1: Tensor, t: Tensor, y: Tensor, *_: Tensor) -> Tensor:
        skips: list[Tensor] = []
        c2, c3 = (net.t_embedder_ls[level](t) + net.y_embedder_ls[level](y) for level in (1, 2))
        x = net.enc_blocks[1](net.downs[0](x), c2, skips)  # (B, 2C, H/2, W/2)
        x = net.lat_blocks[0](net.downs[1](x), c3)  # (B, 4C, H/4, W/4)
        return net.ups[1](net.dec_blocks[0](net.ups[0](x), c2, skips))  # (B, C, H, W)

    def leave(deep: Tensor, x: Tensor, c1: Tensor, t: Tensor, y: Tensor, *skips: Tensor) -> Tensor:
        return net.final_layer(net.output(net.dec_blocks[1](deep, c1, list(skips))), c1)

    return Cut(enter, inner, leave)


def _of_dico(net: DiCo) -> Cut:
    def enter(x: Tensor, t: Tensor, y: Tensor) -> Entered:
        y1, y2, _ = net.y_embedder(y)
        c1, c2 = net.t_embedder_1(t) + y1, net.t_embedder_2(t) + y2
        return net.encoder_level_1(net.x_embedder(x), c1), c2, t, y  # (B, C, H, W)

    def inner(skip1: Tensor, c2: Tensor, t: Tensor, y: Tensor) -> Tensor:
        c3 = net.t_embedder_3(t) + net.y_embedder(y)[2]
        skip2 = net.encoder_level_2(net.down1_2(skip1), c2)  # (B, 2C, H/2, W/2)
        x = net.latent(net.down2_3(skip2), c3)  # (B, 4C, H/4, W/4)
        x = net.reduce_chan_level2(cat([net.up3_2(x), skip2], dim=1))
        return net.up2_1(net.decoder_level_2(x, c2))  # (B, C, H, W)

    def leave(deep: Tensor, skip1: Tensor, c2: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = net.reduce_chan_level1(cat([deep, skip1], dim=1))
        return net.final_layer(net.decoder_level_1(x, c2), c2)  # (B, 2C, H, W) before it

    return Cut(enter, inner, leave)


def _of_fcdm(net: FCDM) -> Cut:
    def enter(x: Tensor, t: Tensor, y: Tensor) -> Entered:
        c1 = net.t_embedder_1(t) + net.y_embedder_1(y)
        return net.encoder_level_1(net.x_embedder(x), c1), c1, t, y  # (B, C, H, W)

    def inner(skip1: Tensor, c1: Tensor, t: Tensor, y: Tensor) -> Tensor:
        c2 = net.t_embedder_2(t) + net.y_embedder_2(y)
        c3 = net.t_embedder_3(t) + net.y_embedder_3(y)
        skip2 = net.encoder_level_2(net.down1_2(skip1), c2)  # (B, 2C, H/2, W/2)
        x = net.latent(net.down2_3(skip2), c3)  # (B, 4C, H/4, W/4)
        x = net.reduce_chans_2(cat([net.up3_2(x), skip2], dim=1))
        return net.up2_1(net.decoder_level_2(x, c2))  # (B, C, H, W)

    def leave(deep: Tensor, skip1: Tensor, c1: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = net.decoder_level_1(net.reduce_chans_1(cat([deep, skip1], dim=1)), c1)  # (B, C, H, W)
        return net.final_layer(net.output_layer(x), c1)

    return Cut(enter, inner, leave)


def _of_dit(net: DiT) -> Cut:
    """Cut DiT: ``inner`` returns what the blocks behind the first add, ``entered`` ends with what that one adds."""

    def enter(x: Tensor, t: Tensor, y: Tensor) -> Entered:
        c = net.t_embedder(t) + net.y_embedder(y)  # (B, C)
        before = net.x_embedder(x) + net.pos_embed  # (B, N, C)
        x = net.blocks[0](before, c)
        return x, c, x - before

    def inner(x: Tensor, c: Tensor, first: Tensor) -> Tensor:
        after = x
        for block in net.blocks[1:]:
            after = block(after, c)
        return after - x

    def leave(added: Tensor, x: Tensor, c: Tensor, first: Tensor) -> Tensor:
        return pixels_from_tokens(net.final_layer(x + added, c), net.grid, net.patch)

    return Cut(enter, inner, leave)


CUTS: dict[type[nn.Module], Callable[..., Cut]] = {DiC: _of_dic, DiCo: _of_dico, FCDM: _of_fcdm, DiT: _of_dit}

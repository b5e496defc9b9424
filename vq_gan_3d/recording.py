"""The normalisation statistics of a `GroupNormVQGAN`, from whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from common.geometry import STEP
from common.tiling import padded_boxes, reader_of
from vq_gan_3d.codec import FLOOR, FrozenCodec
from vq_gan_3d.group_norm import record_statistics
from vq_gan_3d.group_norm_vqgan import GroupNormVQGAN
from vq_gan_3d.vqgan import check_sizes


def record_volumes(
    vqgan: GroupNormVQGAN,
    volumes: Sequence[Tensor],
    tile: int = 16,
    most_tiles: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> FrozenCodec:
    """Records the statistics and freezes the network. Never holds the activations of a whole volume.

    After one volume the network treats this volume as group normalisation would; after several, all alike by the
    statistics of their voxels together.

    Args:
        volumes: (1, D, H, W) in [-1, 1], sizes multiples of 4.
        tile: largest side of a tile in latent voxels; bounds the memory.
        most_tiles: so many tiles of each volume only, evenly spread; None takes all.
        progress: called after each of `vqgan.norms`.
    """
    for ct in volumes:
        check_sizes(ct.shape[1:])
    device = next(vqgan.parameters()).device
    halo, step = vqgan.encoder_halo, STEP

    def voxels() -> Iterator[Tensor]:
        for ct in volumes:
            shape = (ct.shape[1], ct.shape[2], ct.shape[3])
            boxes = padded_boxes(reader_of(ct), shape, tile, halo, torch.tensor([FLOOR]), step, most_tiles)
            yield from (box[None].to(device) for _, box in boxes)

    def latents() -> Iterator[Tensor]:
        for z in encoded:
            yield from codec.decoder_inputs(z, tile, most_tiles)

    record_statistics(vqgan.encoder, voxels, halo * step, progress)
    codec = FrozenCodec(vqgan)
    encoded = [codec.encode_volume(ct, tile) for ct in volumes]
    record_statistics(vqgan.decoder, latents, vqgan.decoder_halo, progress)
    return codec

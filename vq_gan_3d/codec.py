"""The trained VQ-GAN as stage 2 uses it: frozen, exact in tiles, whatever the volume's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from common.frozen import Frozen
from common.geometry import STEP, Triple, slices, triple
from common.tiling import assemble, padded_boxes, reader_of
from vq_gan_3d.group_norm_vqgan import GroupNormVQGAN
from vq_gan_3d.layers import crop
from vq_gan_3d.vqgan import VQGAN, check_sizes

FLOOR = -1.0  # intensity outside a CT: the low end of the HU window


class FrozenCodec(Frozen):
    """CT in [-1, 1] <-> latents before quantisation, unscaled. Never trains; only `decode_patch` gives gradients.

    A CT continues beyond its faces with the window's floor, a latent with the latent of such a floor. Every
    way to encode a volume (whole, in tiles, patch by patch with context) gives the same latent, and so does
    every way to decode it. Results are float32. Encoding also computes in float32 within autocast, so that a training
    step's latents are those of the cache; decoding follows it.
    """

    floor_latent: Tensor

    def __init__(self, vqgan: VQGAN | GroupNormVQGAN) -> None:
        super().__init__()
        self.vqgan = vqgan
        self.channels = vqgan.embedding_dim
        self.encoder_halo = vqgan.encoder_halo
        self.decoder_halo = vqgan.decoder_halo
        self.freeze()
        self.register_buffer("floor_latent", self._encode_floor(), persistent=False)

    @property
    def context(self) -> int:
        """Voxels of CT that an exact latent patch needs around it on every side, a multiple of 4."""
        return self.encoder_halo * STEP

    @torch.no_grad()
    def encode_patch(self, ct_context: Tensor) -> Tensor:
        """Latent (B, C, D/4, H/4, W/4) of a patch that comes with its surroundings.

        Args:
            ct_context: (B, 1, D + 2c, H + 2c, W + 2c) in [-1, 1], c = `context`; -1 outside the volume.
        """
        if min(ct_context.shape[2:]) <= 2 * self.context:
            raise ValueError(
                f"a patch needs {self.context} voxels of context on every side, got"
                f" {tuple(ct_context.shape[2:])} in all; cut it from the volume, -1 beyond its faces"
            )
        return self._encode(ct_context)

    def encode_volume(self, ct: Tensor, tile: int = 32) -> Tensor:
        """(1, D, H, W), sizes multiples of 4 -> (C, D/4, H/4, W/4) on the device of `ct`."""
        shape = triple(ct.shape[1:])
        z = ct.new_empty((self.channels, *(n // STEP for n in shape)), dtype=torch.float32)
        return assemble(self.encode_tiles(reader_of(ct), shape, tile), z)

    @torch.no_grad()
    def encode_tiles(
        self, read: Callable[[Triple, Triple], Tensor], shape: Triple, tile: int = 32, bf16: bool = False
    ) -> Iterator[tuple[Triple, Tensor]]:
        """Encodes a volume box by box without ever holding it whole.

        Args:
            read: (first voxel, size) of a box inside the volume -> (1, d, h, w) in [-1, 1].
            shape: (D, H, W) of the volume in voxels, multiples of 4.
            tile: largest side of a tile in latent voxels.
            bf16: convolve in bfloat16.

        Yields:
            first latent voxel (d, h, w) and latent (C, d, h, w), on the codec's device.
        """
        check_sizes(shape)
        floor = torch.tensor([FLOOR])
        for start, box in padded_boxes(read, shape, tile, self.encoder_halo, floor, STEP):
            yield start, self._encode(box[None].to(self.floor_latent.device), bf16)[0]

    def _encode(self, ct_context: Tensor, bf16: bool = False) -> Tensor:
        with torch.autocast(ct_context.device.type, torch.bfloat16, enabled=bf16):
            return self.vqgan.encode(ct_context, self.encoder_halo).float()

    @property
    def has_half(self) -> bool:
        """Whether `decode_tiles` knows `half`."""
        return isinstance(self.vqgan, VQGAN)

    @torch.no_grad()
    def decode_tiles(
        self,
        z: Tensor,
        tile: int = 32,
        half: bool = False,
        own: slice = slice(None),  # noqa: B008 (frozen)
    ) -> Iterator[tuple[Triple, Tensor]]:
        """Quantises and decodes a latent (C, d, h, w) tile by tile.

        Args:
            tile: largest side of a tile in latent voxels.
            half: convolve in float16; for GPUs, and codecs that `has_half`.
            own: which of the tiles, by their order.

        Yields:
            first voxel (d, h, w) and block (1, D, H, W), on the codec's device.
        """
        for start, box in self._latent_boxes(z, tile, own=own):
            if half and isinstance(self.vqgan, VQGAN):
                block = self.vqgan.decode_half(box, self.decoder_halo)[0]
            else:
                block = self.vqgan.decode(box, self.decoder_halo)[0].float()
            yield triple([STEP * s for s in start]), block

    @torch.no_grad()
    def decoder_inputs(self, z: Tensor, tile: int = 32, most: int | None = None) -> Iterator[Tensor]:
        """What the decoder receives for a latent (C, d, h, w): quantised boxes with the decoder's halo around them.

        `most`: so many of the tiles only, evenly spread.
        """
        yield from (box for _, box in self._latent_boxes(z, tile, most))

    def _latent_boxes(
        self,
        z: Tensor,
        tile: int,
        most: int | None = None,
        own: slice = slice(None),  # noqa: B008 (frozen)
    ) -> Iterator[tuple[Triple, Tensor]]:
        floor = self.floor_latent.to(z.device)
        boxes = padded_boxes(reader_of(z), triple(z.shape[1:]), tile, self.decoder_halo, floor, most=most, own=own)
        for start, box in boxes:
            yield start, self.vqgan.quantize(box[None].to(self.floor_latent.device))

    def decode_volume(self, z: Tensor, tile: int = 32) -> Tensor:
        """(C, d, h, w) -> (1, 4d, 4h, 4w) on the device of `z`."""
        shape = [n * STEP for n in z.shape[1:]]
        return assemble(self.decode_tiles(z, tile), z.new_empty((1, *shape), dtype=torch.float32))

    def encode_box(
        self, read: Callable[[Triple, Triple], Tensor], shape: Triple, first: Triple, size: Triple, tile: int = 32
    ) -> Tensor:
        """Part of a volume's latent (C, *size), as `encode_tiles` would give it. `first`, `size`: latent voxels."""
        low, length = _around(first, size, triple([n // STEP for n in shape]), self.encoder_halo)
        corner, extent = (triple([STEP * n for n in values]) for values in (low, length))
        ct = read(corner, extent)
        latent = self.encode_volume(ct, tile)
        return latent[(slice(None), *slices([f - a for f, a in zip(first, low, strict=True)], size))]

    def decode_box(
        self,
        latent: Callable[[Triple, Triple], Tensor],
        shape: Triple,
        first: Triple,
        size: Triple,
        tile: int = 32,
    ) -> Tensor:
        """Part of a decoded volume (1, *size), as `decode_tiles` would give it.

        Args:
            latent: (first latent voxel, size) of a box inside the latent → (C, d, h, w).
            shape: (D, H, W) of the volume in voxels, multiples of 4. first, size: voxels.
        """
        ends = [-(-(f + n) // STEP) for f, n in zip(first, size, strict=True)]
        start = triple([f // STEP for f in first])
        extent = triple([end - f for end, f in zip(ends, start, strict=True)])
        low, length = _around(start, extent, triple([n // STEP for n in shape]), self.decoder_halo)
        volume = self.decode_volume(latent(low, length), tile)
        return volume[(slice(None), *slices([f - STEP * a for f, a in zip(first, low, strict=True)], size))]

    def decode_patch(self, z: Tensor) -> Tensor:
        """CT (B, 1, 4d, 4h, 4w) of a latent (B, C, d, h, w) as it is, with a gradient to `z`; for losses.

        Not quantised, since that has no gradient; near the faces it depends on zero padding.
        """
        return self.vqgan.decode(z).float()

    @torch.no_grad()
    def _encode_floor(self) -> Tensor:
        side = STEP * (2 * self.encoder_halo + 1)
        device = next(self.vqgan.parameters()).device
        volume = torch.full((1, 1, side, side, side), FLOOR, device=device)
        return crop(self.vqgan.encode(volume), self.encoder_halo).flatten().float()


def _around(first: Triple, size: Triple, shape: Triple, halo: int) -> tuple[Triple, Triple]:
    """First voxel and size of a box with `halo` voxels on every side, as far as they lie in `shape`."""
    low = triple([max(0, f - halo) for f in first])
    ends = [min(f + n + halo, whole) for f, n, whole in zip(first, size, shape, strict=True)]
    return low, triple([end - a for end, a in zip(ends, low, strict=True)])

"""The 3D VQ-GAN's autoencoder: 4x4x4 down, a codebook, 4x4x4 up, with a finite receptive field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.collectives import from_rank_zero
from common.errors import UserError
from common.geometry import STEP
from common.keyed import KeyedRandom
from common.layers import RMSNorm, zero_init
from vq_gan_3d.layers import NORM_EPSILON, ChannelsToSpace, RepeatVoxels, ResBlock, SpaceToChannels, crop
from vq_gan_3d.linear import LinearDecoder, LinearEncoder, basis_functions, fit, set_maps
from vq_gan_3d.quantizers import Quantizer, QuantizerOutput
from vq_gan_3d.receptive_field import margin


class Encoder(nn.Module):
    """CT (B, 1, D, H, W) -> latent (B, C, D/4, H/4, W/4).

    A linear map of 4x4x4 blocks, plus a convolutional correction that starts at zero.

    Args:
        lapped: the linear map's basis functions overlap.
        widths: channels at half and at quarter resolution.
        num_blocks: residual blocks at half and at quarter resolution.
    """

    def __init__(self, embedding_dim: int, lapped: bool, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        half, quarter = widths
        self.convs = nn.Sequential(
            SpaceToChannels(2),  # nothing is computed at full resolution
            nn.Conv3d(8, half, 1),
            *(ResBlock(half) for _ in range(num_blocks[0])),
            nn.Conv3d(half, quarter, 4, stride=2, padding=1),
            *(ResBlock(quarter) for _ in range(num_blocks[1])),
            nn.Conv3d(quarter, embedding_dim, 1),
        )
        self.linear = LinearEncoder(embedding_dim, lapped)
        zero_init(self.convs[-1])
        self.halo = max(self.linear.halo, -(-margin([self.convs], output_block=1, input_block=STEP) // STEP))

    def forward(self, x: Tensor, context: int = 0) -> Tensor:
        """`context`: latent voxels on every side of `x` that are only context and are cut off the result."""
        return crop(self.convs(x) + self.linear(x), context)


class Decoder(nn.Module):
    """Latent (B, C, d, h, w) -> CT (B, 1, 4d, 4h, 4w).

    A linear map of latent voxels to 4x4x4 blocks, plus a convolutional correction that starts at zero. Nearly all of
    the work is done at quarter and half resolution: wide layers at full resolution would take most of the time and
    memory.

    Args:
        lapped: the linear map's basis functions overlap.
        widths: channels at quarter, half and full resolution.
        num_blocks: residual blocks at quarter and half resolution.
    """

    def __init__(self, embedding_dim: int, lapped: bool, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        quarter, half, full = widths
        stages = [
            nn.Sequential(
                nn.Conv3d(embedding_dim, quarter, 1),
                *(ResBlock(quarter) for _ in range(num_blocks[0])),
            ),
            nn.Sequential(
                RepeatVoxels(2),
                nn.Conv3d(quarter, half, 3, padding=1),
                *(ResBlock(half) for _ in range(num_blocks[1])),
            ),
            nn.Sequential(
                RMSNorm(half, axes=3, eps=NORM_EPSILON),
                nn.Conv3d(half, full * 2**3, 3, padding=1),
                ChannelsToSpace(2),
                nn.SiLU(),
                nn.Conv3d(full, 1, 3, padding=1),
            ),
        ]
        self.stages = nn.ModuleList(stages)
        self.linear = LinearDecoder(embedding_dim, lapped)
        zero_init(stages[-1][-1])
        self.halo = max(self.linear.halo, margin(stages, output_block=STEP, input_block=1))
        # what the next stages need around a latent voxel, in voxels of this stage's output
        self.margins = (margin(stages[1:], STEP, 1), margin(stages[2:], STEP, 2))

    def forward(self, z: Tensor, context: int = 0) -> Tensor:
        """`context`: latent voxels on every side of `z` that are only context and are cut off the result."""
        return self.correction(z, context) + self.linear(z, context)

    def correction(self, z: Tensor, context: int = 0) -> Tensor:
        """What the convolutions add to the linear map.

        The context is cut as soon as the remaining layers no longer need it: the fine layers, which take most of the
        work, run on little more than the result.
        """
        coarse = min(context, self.margins[0])
        fine = min(2 * coarse, self.margins[1])
        x = crop(self.stages[0](z), context - coarse)
        x = crop(self.stages[1](x), 2 * coarse - fine)
        return crop(self.stages[2](x), 2 * fine)


class VQGAN(nn.Module):
    """Autoencoder with a quantised latent.

    Intensities are in [-1, 1]; latents are unscaled, about unit root mean square over all channels after
    `init_linear_from`. `encode` returns the latent *before* quantisation.

    Args:
        n_hiddens: base width; all others are multiples of it.
        embedding_dim: latent channels.
        quantizer: its `dim` must equal `embedding_dim`.
        encoder_mults, encoder_blocks: width multiples and residual blocks at half and quarter resolution.
        decoder_mults, decoder_blocks: the same at quarter and half resolution; the full has n_hiddens / 4
            channels (at least 4).
        lapped: the linear codec that training starts from overlaps the blocks' faces by two voxels (see `linear`);
            without, its blocks show in what is decoded from inexact latents.
    """

    initialized: Tensor  # whether the weights come from training data; saved with them

    def __init__(
        self,
        n_hiddens: int,
        embedding_dim: int,
        quantizer: Quantizer,
        encoder_mults: Sequence[int] = (1, 4),
        encoder_blocks: Sequence[int] = (1, 3),
        decoder_mults: Sequence[int] = (6, 2),
        decoder_blocks: Sequence[int] = (3, 3),
        lapped: bool = False,
    ) -> None:
        super().__init__()
        _check_levels("encoder", encoder_mults, encoder_blocks)
        _check_levels("decoder", decoder_mults, decoder_blocks)
        if quantizer.dim != embedding_dim:
            raise UserError(
                f"the quantizer works on vectors of embedding_dim channels, got {quantizer.dim} and"
                f" embedding_dim={embedding_dim}; give both the same number"
            )
        self.embedding_dim = embedding_dim
        self.encoder = Encoder(embedding_dim, lapped, [n_hiddens * m for m in encoder_mults], encoder_blocks)
        widths = [*(n_hiddens * m for m in decoder_mults), max(4, n_hiddens // 4)]
        self.decoder = Decoder(embedding_dim, lapped, widths, decoder_blocks)
        self.quantizer = quantizer
        self.register_buffer("initialized", torch.tensor(False))
        self._tie_linear_maps()

    @property
    def encoder_halo(self) -> int:
        """Latent voxels of context that an exact latent needs on every side."""
        return self.encoder.halo

    @property
    def decoder_halo(self) -> int:
        """Latent voxels of context that exact voxels need on every side."""
        return self.decoder.halo

    def encode(self, x: Tensor, context: int = 0) -> Tensor:
        """(B, 1, D, H, W) in [-1, 1], sizes multiples of 4 -> (B, C, D/4, H/4, W/4), not quantised.

        Without `context` the result near the faces depends on zero padding: fine for training, not for tiles.
        """
        check_sizes(x.shape[2:])
        return self.encoder(x, context)

    def quantize(self, z: Tensor) -> Tensor:
        """The latent that the decoder receives, (B, C, d, h, w). Changes nothing in the codebook."""
        return self.quantizer.quantize(z)

    def decode(self, z: Tensor, context: int = 0) -> Tensor:
        """(B, C, d, h, w), quantised -> (B, 1, 4d, 4h, 4w), about [-1, 1], not clipped."""
        return self.decoder(z, context)

    def decode_half(self, z: Tensor, context: int = 0) -> Tensor:
        """`decode` with the convolutions in float16; the linear map, which gives most of the result, stays float32."""
        with torch.autocast(z.device.type, torch.float16):
            correction = self.decoder.correction(z, context)
        return correction.float() + self.decoder.linear(z, context)

    def forward(
        self, x: Tensor, random: KeyedRandom | None = None, latent_noise: float = 0.0
    ) -> tuple[Tensor, QuantizerOutput]:
        """(B, 1, D, H, W) -> its reconstruction, same shape, and what the quantiser reports.

        Args:
            random: of the batch's samples, for training.
            latent_noise: largest noise on a sample's latent, in standard deviations of each channel in this batch.
        """
        z = self.encode(x)
        if random is not None and latent_noise > 0:
            strength = latent_noise * random.uniform(1, 1, 1, 1)
            z = z + strength * z.detach().std((0, 2, 3, 4), keepdim=True) * random.normal(*z.shape[1:]).to(z.dtype)
        z_q, info = self.quantizer(z, random)
        return self.decode(z_q), info

    @torch.no_grad()
    def init_linear_from(self, patches: Tensor) -> None:
        """Sets both linear maps to the best linear codec of `patches` (B, 1, D, H, W), see `linear.fit`.

        Component i is channel i. One common scale brings the latent to unit root mean square, so that distances
        between latents stay proportional to distances between voxels; a codebook needs that. Initialises the
        quantiser on these latents too. The same on all ranks.
        """
        # Each machine's linear algebra may give a component the other sign, and DDP would never notice.
        codec = map(from_rank_zero, fit(patches, self.embedding_dim, self.encoder.linear.lapped))
        set_maps(self.encoder.linear, self.decoder.linear, *codec)
        self.quantizer.init_from(torch.cat([self.encode(patch[None]) for patch in patches]))
        self.initialized.fill_(True)

    @torch.no_grad()
    def _tie_linear_maps(self) -> None:
        """Orthogonal rows and their transpose, for blocks of unit root mean square."""
        turn = nn.init.orthogonal_(torch.empty(self.embedding_dim, STEP**3))
        functions = basis_functions(self.encoder.linear.lapped).to(turn)
        basis = torch.einsum("cn,nijk->cijk", turn, functions)
        set_maps(self.encoder.linear, self.decoder.linear, basis, turn.new_zeros(()), turn.new_ones(()))


def check_sizes(shape: Sequence[int]) -> None:
    """ValueError unless every side of a volume (D, H, W) is a multiple of the down-sampling."""
    if any(size % STEP for size in shape):
        raise ValueError(
            f"volume sizes must be multiples of {STEP} voxels, got {tuple(shape)};"
            " pad the high ends with the window's floor (-1)"
        )


def _check_levels(part: str, mults: Sequence[int], blocks: Sequence[int]) -> None:
    if len(mults) != 2 or len(blocks) != 2:
        raise UserError(
            f"{part}_mults and {part}_blocks need two numbers each (one per resolution),"
            f" got {list(mults)} and {list(blocks)}"
        )

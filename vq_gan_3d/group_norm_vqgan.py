"""The VQ-GAN of the medicaldiffusion layout (Khader et al. 2023), for checkpoints trained elsewhere.

Its group normalisation looks at the whole input, so that a tile's result would depend on the tile. Here it uses
statistics that are recorded once, over whole volumes (`vq_gan_3d.recording`): tiles then equal the whole, and patches
the volume.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from common.errors import UserError
from common.geometry import STEP
from vq_gan_3d.group_norm import RecordedGroupNorm, recorded_norms
from vq_gan_3d.layers import Residual, TransposedConv3d, crop
from vq_gan_3d.quantizers import Quantizer
from vq_gan_3d.receptive_field import margin
from vq_gan_3d.vqgan import check_sizes

LEVELS = 2  # each halves the resolution


def conv3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv3d:
    """3x3x3, or 4x4x4 with stride 2; the input repeats itself beyond its faces."""
    return nn.Conv3d(in_channels, out_channels, 2 + stride, stride, padding=1, padding_mode="replicate")


def res_block(channels: int, groups: int) -> Residual:
    """Twice group norm, SiLU, 3x3x3 convolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in ("1", "2"):
        layers |= {f"norm{i}": RecordedGroupNorm(channels, groups), f"silu{i}": nn.SiLU()}
        layers[f"conv{i}"] = conv3(channels, channels)
    return Residual(nn.Sequential(layers))


class GroupNormVQGAN(nn.Module):
    """Autoencoder with a quantised latent, 4x4x4 down; the interface of `VQGAN`. Not meant for training.

    Args:
        n_hiddens: channels at full resolution of the encoder; doubled at each coarser level.
        embedding_dim: latent channels.
        quantizer: its `dim` must equal `embedding_dim`.
        groups: of every normalisation.
    """

    def __init__(self, n_hiddens: int, embedding_dim: int, quantizer: Quantizer, groups: int = 32) -> None:
        super().__init__()
        if quantizer.dim != embedding_dim:
            raise UserError(f"need a quantizer of embedding_dim={embedding_dim} channels, got {quantizer.dim}")
        self.embedding_dim, self.quantizer = embedding_dim, quantizer
        self.encoder = nn.Sequential(_encoder_layers(n_hiddens, embedding_dim, groups))
        self.decoder = nn.Sequential(_decoder_layers(n_hiddens, embedding_dim, groups))
        self.encoder_halo = -(-margin([self.encoder], output_block=1, input_block=STEP) // STEP)
        self.decoder_halo = margin([self.decoder], output_block=STEP, input_block=1)

    def encode(self, x: Tensor, context: int = 0) -> Tensor:
        """(B, 1, D, H, W) in [-1, 1], sizes multiples of 4 -> (B, C, D/4, H/4, W/4), not quantised.

        `context`: latent voxels on every side of `x` that are only context and are cut off the result.
        """
        check_sizes(x.shape[2:])
        return crop(self.encoder(x), context)

    def quantize(self, z: Tensor) -> Tensor:
        """The latent that the decoder receives, (B, C, d, h, w). Changes nothing in the codebook."""
        return self.quantizer.quantize(z)

    def decode(self, z: Tensor, context: int = 0) -> Tensor:
        """(B, C, d, h, w), quantised -> (B, 1, 4d, 4h, 4w), about [-1, 1], not clipped."""
        return crop(self.decoder(z), context * STEP)

    @property
    def norms(self) -> list[RecordedGroupNorm]:
        """All normalisations in the order in which they are used."""
        return recorded_norms(self.encoder) + recorded_norms(self.decoder)


def _encoder_layers(n_hiddens: int, embedding_dim: int, groups: int) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv_first=conv3(1, n_hiddens))
    for level in range(LEVELS):
        channels = n_hiddens * 2**level
        layers[f"down_{level}"] = conv3(channels, 2 * channels, stride=2)
        layers[f"res_{level}"] = res_block(2 * channels, groups)
    widest = n_hiddens * 2**LEVELS
    layers |= {"norm": RecordedGroupNorm(widest, groups), "silu": nn.SiLU()}
    layers["to_latent"] = nn.Conv3d(widest, embedding_dim, 1)
    return layers


def _decoder_layers(n_hiddens: int, embedding_dim: int, groups: int) -> OrderedDict[str, nn.Module]:
    channels = n_hiddens * 2**LEVELS
    layers: OrderedDict[str, nn.Module] = OrderedDict(from_latent=nn.Conv3d(embedding_dim, channels, 1))
    layers |= {"norm": RecordedGroupNorm(channels, groups), "silu": nn.SiLU()}
    for level in range(LEVELS):
        width = n_hiddens * 2 ** (LEVELS - level)  # of the level, the first as wide as what it comes from
        layers[f"up_{level}"] = TransposedConv3d(channels, width)
        layers |= {f"res{i}_{level}": res_block(width, groups) for i in (1, 2)}
        channels = width
    layers["conv_last"] = conv3(channels, 1)
    return layers

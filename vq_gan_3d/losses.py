"""What the VQ-GAN is trained on: intensity, perceptual and adversarial terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.keyed import KeyedRandom
from vq_gan_3d.discriminators import PatchDiscriminator, feature_distance, hinge_loss, without_gradients_of
from vq_gan_3d.perceptual import VGG16Distance


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; 0 leaves a term out.

    Attributes:
        l1, l2: mean absolute and mean square error of the volume.
        gradients: mean square error of the differences of neighbouring voxels, summed over the axes; an error that
            jumps where two latent voxels meet costs more than a smooth one of the same size.
        perceptual: VGG16 distance of one slice per plane.
        gan: each discriminator's verdict.
        features: distance in each discriminator's features.
        disc_start: training steps before the adversarial terms begin.
    """

    l1: float = 4.0
    l2: float = 0.0
    gradients: float = 0.0
    perceptual: float = 0.0
    gan: float = 0.0
    features: float = 0.0
    disc_start: int = 0

    def __post_init__(self) -> None:
        negative = {name: value for name, value in vars(self).items() if value < 0}
        if negative:
            raise UserError(f"loss weights and disc_start must be >= 0, got {negative}")

    @property
    def adversarial(self) -> bool:
        return self.gan > 0 or self.features > 0


def gradient_error(real: Tensor, fake: Tensor) -> Tensor:
    """Mean square error of the differences between neighbouring voxels of (B, 1, D, H, W), summed over the axes."""
    error = fake.float() - real.float()
    return torch.stack([error.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()


def random_planes(random: KeyedRandom, *volumes: Tensor) -> Iterator[list[Tensor]]:
    """For each of the three axes, a random slice of every sample, the same of every volume.

    (B, 1, D, H, W) -> (B, 1, h, w).
    """
    samples = torch.arange(len(volumes[0]), device=random.device)
    for axis, place in zip((2, 3, 4), random.uniform(3).unbind(1), strict=True):
        index = (place * volumes[0].shape[axis]).long()
        yield [volume.movedim(axis, 1)[samples, index] for volume in volumes]


def perceptual_loss(network: VGG16Distance, real: Tensor, fake: Tensor, random: KeyedRandom) -> Tensor:
    """VGG16 distance of volumes (B, 1, D, H, W), averaged over one random slice per plane."""
    return torch.stack([network(a, b) for a, b in random_planes(random, real, fake)]).mean()


class AdversarialLoss(nn.Module):
    """The generator's and the discriminators' losses on one pair, from one pass over slices and volume.

    Both may be summed and back-propagated at once: the generator's loss gives no gradient to the
    discriminators, theirs none to the generator.
    """

    def __init__(self, slices: PatchDiscriminator, volumes: PatchDiscriminator, weights: LossWeights) -> None:
        super().__init__()
        self.slices, self.volumes = slices, volumes
        self.weights = weights

    def forward(self, real: Tensor, fake: Tensor, random: KeyedRandom) -> tuple[Tensor, Tensor]:
        """Volumes (B, 1, D, H, W) -> (generator's loss, weighted; discriminators' loss)."""
        by_plane = [self._judge(self.slices, a, b) for a, b in random_planes(random, real, fake)]
        slices = torch.stack(by_plane).mean(0)
        generator, discriminator = slices + self._judge(self.volumes, real, fake)
        return generator, discriminator

    def _judge(self, network: PatchDiscriminator, real: Tensor, fake: Tensor) -> Tensor:
        """(generator's, discriminator's) loss with one network, (2,)."""
        on_real, on_fake = network(real), network(fake.detach())
        discriminator = hinge_loss(on_real[-1], on_fake[-1])
        with without_gradients_of(network):
            verdict = network(fake)
        known = [features.detach() for features in on_real]
        generator = self.weights.features * feature_distance(known, verdict)
        generator = generator - self.weights.gan * verdict[-1].mean()
        return torch.stack([generator, discriminator])

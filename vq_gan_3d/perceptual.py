"""Distance between grey images in the features of a frozen VGG16, read from a local file."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from common.errors import UserError
from common.frozen import Frozen
from common.weights import read_weights, under

RANDOM = "random"
_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
# channels per convolution; "M" halves the resolution (Simonyan & Zisserman 2015, configuration D)
_LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
_TAPS = (3, 8, 15, 22, 29)  # last activation before each halving, as in LPIPS (Zhang et al. 2018)


class VGG16Distance(Frozen):
    """Squared distance of unit-normalised features, averaged over positions and summed over five depths.

    Frozen; its inputs get gradients.

    Args:
        weights: file with torchvision's VGG16 state dict, or "random" (for tests: no meaning, right cost).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers())
        if weights != RANDOM:
            _load_weights(self.features, Path(weights))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two batches of grey images (B, 1, H, W) in [-1, 1], at least 16 pixels wide -> scalar."""
        both = ((torch.cat([x, y]) + 1) / 2 - self.mean) / self.std
        distance = both.new_zeros(())
        for i, layer in enumerate(self.features):
            both = layer(both)
            if i in _TAPS:
                fx, fy = normalize(both, dim=1).chunk(2)
                distance = distance + (fx - fy).square().sum(1).mean()
        return distance


def load_perceptual(weights: str | None, weight: float) -> VGG16Distance | None:
    """The network for a perceptual loss of this weight; None for weight 0.

    Raises:
        ValueError: weight > 0 without a file of these weights.
    """
    if weight == 0:
        return None
    if weights is None:
        raise UserError(
            f"a perceptual weight of {weight} needs VGG16 weights, got no path: {_remedy('a local folder')}"
        )
    return VGG16Distance(weights)


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for entry in _LAYOUT:
        if isinstance(entry, int):
            layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
            channels = entry
        else:
            layers.append(nn.MaxPool2d(2))
    return layers


def _load_weights(features: nn.Module, path: Path) -> None:
    """UserError unless the file holds torchvision's VGG16."""
    remedy = _remedy(path.parent)
    theirs = under(read_weights(path, remedy), "features.")
    found, wanted = ({name: t.shape for name, t in state.items()} for state in (theirs, features.state_dict()))
    other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if other:
        raise UserError(
            f"{path} does not hold torchvision's VGG16 (tensor features.{other[0]} is missing, or not as there):"
            f" {remedy}"
        )
    features.load_state_dict(theirs)


def _remedy(folder: Path | str) -> str:
    return f"download {_URL} into {folder} and give its path, or set the perceptual weight to 0"

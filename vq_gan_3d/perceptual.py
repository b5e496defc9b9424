"""Distance between grey images in the features of a frozen VGG16, read from a local file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

RANDOM = "random"
_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
# channels per convolution; "M" halves the resolution (Simonyan & Zisserman 2015, configuration D)
_LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
_TAPS = (3, 8, 15, 22, 29)  # last activation before each halving, as in LPIPS (Zhang et al. 2018)


class VGG16Distance(nn.Module):
    """Squared distance of unit-normalised features, averaged over positions and summed over five depths.

    Frozen: stays in eval mode, its parameters get no gradients, its inputs do.

    Args:
        weights: file with torchvision's VGG16 state dict, or "random" (for tests: no meaning, right cost).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers())
        if weights != RANDOM:
            self.features.load_state_dict(_read_weights(Path(weights)))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> VGG16Distance:
        return super().train(False)

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
        ValueError: weight > 0 without a file.
    """
    if weight == 0:
        return None
    if weights is None:
        raise ValueError(
            f"a perceptual weight of {weight} needs VGG16 weights, got no path; {_remedy('a local folder')}"
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


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"no VGG16 weights at {path}; {_remedy(path.parent)}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    features = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    if "28.weight" not in features:
        raise ValueError(
            f"{path} does not hold torchvision's VGG16 (no tensor features.28.weight); {_remedy(path.parent)}"
        )
    return features


def _remedy(folder: Path | str) -> str:
    return f"download {_URL} into {folder} and give its path, or set the perceptual weight to 0"

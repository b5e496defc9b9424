"""Networks from local files whose features tell how drawn CTs are spread, and features that are kept."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.atomic import replacing
from common.errors import BadFileError, UserError
from common.frozen import Frozen
from common.npz_file import read_npz
from common.tensor_hash import tensor_hash
from common.weights import read_weights
from dataset.intensity import hu_to_unit
from ddpm.perceptual_resnet import ResNetDistance
from evaluation.common_grid import CommonGrid
from evaluation.metrics import Window

GRID = CommonGrid((192, 192, 192), (2.0, 2.0, 2.0))  # on which networks see CTs, whatever the data set
_EVERY = 6  # slices, of which one is looked at
_AT_ONCE = 16  # slices
_PLANES, _VOLUME = "2.5D", "3D"
_RESNET = (
    "a ResNet-50 in torchvision's names (its own file, RadImageNet's of MONAI), or a local folder of transformers'"
)


class PlaneFeatures(Frozen):
    """A CT (D, H, W) in [-1, 1] → (3, 2048): a ResNet-50's pooled features, averaged over slices, plane by plane.

    Every sixth slice that shows something; grey in all three channels.
    """

    def __init__(self, network: ResNetDistance) -> None:
        super().__init__()
        self.network = network
        self.freeze()

    def forward(self, ct: Tensor) -> Tensor:
        return torch.stack([self._of(ct.movedim(axis, 0)[::_EVERY]) for axis in range(3)])

    def _of(self, slices: Tensor) -> Tensor:
        seen = slices[slices.amax((1, 2)) > -1]
        mean, std = self.network.mean, self.network.std
        parts = (seen if len(seen) else slices[:1])[:, None].split(_AT_ONCE)
        return (
            torch.cat([self.network.resnet(((p + 1) / 2 - mean) / std).pooler_output for p in parts]).flatten(1).mean(0)
        )


class VolumeFeatures(Frozen):
    """A CT (D, H, W) in [-1, 1] → (1, F): a 3D ResNet's features, averaged over places."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.freeze()

    def forward(self, ct: Tensor) -> Tensor:
        found: Tensor = self.network(ct[None, None])
        return found


@dataclass(frozen=True)
class Extractor:
    """kind: "2.5D" or "3D". network: CT (D, H, W) in [-1, 1] → (planes, F). hash: of its tensors."""

    kind: str
    network: nn.Module
    hash: str

    @torch.no_grad()
    def of(self, hu: np.ndarray, window: Window, device: torch.device, folder: Path) -> np.ndarray:
        """Features of a CT on `GRID`, float32 (planes, F), kept in the folder by what is seen."""
        seen = hu_to_unit(hu, window)
        path = folder / f"{self.hash[:16]}_{hashlib.sha256(seen.tobytes()).hexdigest()[:32]}.npz"
        try:
            return read_npz(path, "Remove it.")["features"]
        except (FileNotFoundError, BadFileError, KeyError):
            found: np.ndarray = self.network.to(device)(torch.from_numpy(seen).to(device)).float().cpu().numpy()
            with replacing(path) as temporary:
                np.savez(temporary, features=found)
            return found


def load_extractors(settings: Mapping[str, Any]) -> dict[str, Extractor]:
    """By name, of those that are asked for.

    Args:
        settings: imagenet, radimagenet, medicalnet_10, medicalnet_50: files of weights, or None; random: whether
            networks of random weights are asked as well.

    Raises:
        UserError: a file holds something else, or a kind of features would stand alone.
    """
    parts = {name: _EXTRACTORS[name](name, Path(path)) for name, path in settings.items() if path and name != "random"}
    if settings["random"]:
        parts |= {"random_planes": _random_planes(), "random_volume": _random_volume()}
    found = {
        name: Extractor(_PLANES if isinstance(network, PlaneFeatures) else _VOLUME, network, tensor_hash(network))
        for name, network in parts.items()
    }
    kinds = [one.kind for one in found.values()]
    for name, one in found.items():
        if kinds.count(one.kind) == 1 and not settings["random"]:
            raise UserError(
                f"distances by the features of one network say as much about it as about the CTs, but extractors.{name}"
                f" is the only one of {one.kind} features; give a second one of these, or extractors.random=true"
            )
    return found


def _planes(name: str, path: Path) -> PlaneFeatures:
    remedy = f"extractors.{name} needs {_RESNET}"
    if not path.exists():
        raise UserError(f"no weights at {path}: {remedy}")
    network = ResNetDistance(str(path.absolute()), remedy)
    if network.of_radimagenet != (name == "radimagenet"):
        right = "radimagenet" if network.of_radimagenet else "imagenet"
        raise UserError(f"extractors.{name}={path} holds weights of another training; give them as extractors.{right}")
    return PlaneFeatures(network)


def _random_planes() -> PlaneFeatures:
    return PlaneFeatures(ResNetDistance("random"))


def _medicalnet(depth: int) -> Callable[[str, Path], VolumeFeatures]:
    def load(name: str, path: Path) -> VolumeFeatures:
        remedy = f"extractors.{name} needs resnet_{depth}_23dataset.pth of MedicalNet"
        state = {key.removeprefix("module."): value for key, value in read_weights(path, remedy).items()}
        network = _resnet3d(depth)
        known = network.state_dict()
        try:
            network.load_state_dict({key: value for key, value in state.items() if key in known or "layer" in key})
        except RuntimeError as error:
            raise UserError(f"{path} does not hold a MedicalNet ResNet-{depth}: {remedy}") from error
        return VolumeFeatures(network)

    return load


def _random_volume() -> VolumeFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return VolumeFeatures(_resnet3d(10))


def _resnet3d(depth: int) -> nn.Module:
    """MONAI's, as MedicalNet's weights fit it: no dilation, so the last two stages are coarser than in its own code."""
    from monai.networks.nets import resnet  # here: it takes a moment to load

    network: nn.Module = getattr(resnet, f"resnet{depth}")(
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=2,
        feed_forward=False,
        shortcut_type="B",
        bias_downsample=False,
    )
    return network


_EXTRACTORS: dict[str, Callable[[str, Path], PlaneFeatures | VolumeFeatures]] = {
    "imagenet": _planes,
    "radimagenet": _planes,
    "medicalnet_10": _medicalnet(10),
    "medicalnet_50": _medicalnet(50),
}

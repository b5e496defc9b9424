"""Distance between grey images in the features of a frozen ResNet-50, read from local files."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import ResNetConfig, ResNetModel

from common.errors import UserError
from common.frozen import Frozen
from common.weights import Renaming, read_weights, rename
from ddpm.perceptual import PerceptualLoss

RANDOM = "random"
_MONAI_FILE = "https://huggingface.co/MONAI/checkpoints/resolve/main/RadImageNet-ResNet50_notop.pth"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of images in [0, 1]
_RADIMAGENET = (0.406, 0.456, 0.485), (1.0, 1.0, 1.0)  # channels B, G, R, as MONAI's PerceptualLoss feeds them

_RENAMES: tuple[Renaming, ...] = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
)


class ResNetDistance(Frozen):
    """Squared distance of unit-normalised features, averaged over positions, images and the four stages.

    Frozen; its first input gets gradients. Computes in float32 under any autocast: at low noise the features
    hardly differ.

    Args:
        weights: file with a ResNet-50's state dict in torchvision's names (torchvision's own, or MONAI's
            RadImageNet one), folder of transformers' ResNet, or "random" (for tests: no meaning, right cost).
        remedy: what to do about a file that is none of these, for the error.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str, remedy: str | None = None) -> None:
        super().__init__()
        self.resnet, (mean, std) = _load(weights, remedy or _REMEDY)
        self.of_radimagenet = (mean, std) == _RADIMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, predicted: Tensor, real: Tensor) -> Tensor:
        """Two batches of grey images (B, 1, H, W) in about [-1, 1] -> scalar; no gradient to `real`."""
        with torch.autocast(predicted.device.type, enabled=False):
            with torch.no_grad():
                targets = self.features(real.float())
            pairs = zip(self.features(predicted.float()), targets, strict=True)
            return torch.stack([(f - g).square().sum(1).mean() for f, g in pairs]).mean()

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit feature vectors after each of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the size."""
        pixels = ((images + 1) / 2 - self.mean) / self.std
        stages = self.resnet(pixels, output_hidden_states=True).hidden_states[1:]  # the first is the stem's
        return [normalize(stage, dim=1) for stage in stages]


def load_perceptual(
    weights: str | None, weight: float, every: int, crop: int, noise_limit: float
) -> PerceptualLoss | None:
    """The perceptual loss of this weight; None for weight 0.

    Raises:
        ValueError: weight > 0 without weights of the ResNet-50.
    """
    if weight == 0:
        return None
    if weights is None:
        raise UserError(f"model.perceptual_weight={weight} needs the weights of a ResNet-50, got no path: {_REMEDY}")
    return PerceptualLoss(ResNetDistance(weights), weight, every, crop, noise_limit)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet-50's state dict in torchvision's names -> transformers' names, without the classifier.

    Biases of convolutions, which transformers' layers do not have, move into the normalisation behind them.
    """
    converted = {rename(name, _RENAMES): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    for name in [n for n in converted if n.endswith("convolution.bias")]:
        mean = name.replace("convolution.bias", "normalization.running_mean")
        converted[mean] = converted[mean] - converted.pop(name)
    return converted


def _load(weights: str, remedy: str) -> tuple[nn.Module, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The network, and mean and std of the images in [0, 1] that it was trained on."""
    path = Path(weights)
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the same network after a restart
            return ResNetModel(ResNetConfig()), _IMAGENET
    if (path / "config.json").is_file():
        return ResNetModel.from_pretrained(path, local_files_only=True), _IMAGENET
    state = read_weights(path, remedy)
    if "layer4.2.conv3.weight" not in state:
        raise UserError(
            f"{path} does not hold a ResNet-50 in torchvision's names (no tensor layer4.2.conv3.weight): {remedy}"
        )
    # RadImageNet was trained in Keras: its convolutions have biases, and the first of a block has the stride.
    from_keras = "conv1.bias" in state
    resnet = ResNetModel(ResNetConfig(downsample_in_bottleneck=from_keras))
    try:
        resnet.load_state_dict(convert(state))
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path} holds another network than a ResNet-50 (deeper, or incomplete?): {remedy}") from error
    return resnet, _RADIMAGENET if from_keras else _IMAGENET


_REMEDY = (
    f"download {_MONAI_FILE} to any local folder and set model.perceptual_ckpt to that file"
    " (torchvision's resnet50 weights and a local folder of transformers' ResNet-50 work too),"
    " or set model.perceptual_weight=0"
)

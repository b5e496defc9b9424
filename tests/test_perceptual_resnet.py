"""The features of the perceptual loss: whose they are, from which files, and that they stay as they are."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d, normalize, relu

from common.tensor_hash import tensor_hash
from ddpm.perceptual_resnet import ResNetDistance, load_perceptual


@pytest.fixture(scope="module")
def network():
    return ResNetDistance("random")


def test_closer_images_have_a_smaller_distance(network):
    real = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    none, little, much = (float(network(real + size * noise, real)) for size in (0, 0.1, 0.5))
    assert none == pytest.approx(0, abs=1e-9)
    assert 0 < little < much


def test_autocast_changes_nothing_in_the_features(network):
    real = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = network(real * 0.99, real)
    torch.testing.assert_close(under_autocast, network(real * 0.99, real), rtol=0, atol=0)


def test_the_network_is_a_resnet50_without_its_classifier(network):
    assert sum(p.numel() for p in network.parameters()) == 23_508_032
    network.train()
    assert not any(part.training for part in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert tensor_hash(ResNetDistance("random")) == tensor_hash(network)


class Block(nn.Module):
    """Bottleneck in torchvision's names; `keras`: stride in the first convolution, biases, another epsilon."""

    def __init__(self, width_in, width, stride, keras):
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1.001e-5 if keras else 1e-5)
        first, second = (stride, 1) if keras else (1, stride)
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 1, first, bias=keras), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, second, 1, bias=keras), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=keras), norm(4 * width)
        self.downsample: nn.Sequential | None = None
        if width_in != 4 * width:
            shortcut = nn.Conv2d(width_in, 4 * width, 1, stride, bias=keras)
            self.downsample = nn.Sequential(shortcut, norm(4 * width))

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(relu(self.bn2(self.conv2(y)))))
        return relu(y + (x if self.downsample is None else self.downsample(x)))


class PlainResNet50(nn.Module):
    """He et al. 2016, table 1, with the names and layout of torchvision, or of RadImageNet's Keras network."""

    def __init__(self, keras):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=keras)
        self.bn1, width_in = nn.BatchNorm2d(64), 64
        for i, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            blocks = [Block(width_in, width, 2 if i else 1, keras)]
            blocks += [Block(4 * width, width, 1, keras) for _ in range(depth - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            width_in = 4 * width
        self.fc = nn.Linear(2048, 2)

    def forward(self, x):
        x, stages = max_pool2d(relu(self.bn1(self.conv1(x))), 3, 2, 1), []
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            stages.append(x)
        return stages


@pytest.fixture(params=[False, True], ids=["torchvision", "radimagenet"])
def plain(request):
    torch.manual_seed(0)
    network = PlainResNet50(keras=request.param).eval()
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            statistics = dict(part.named_buffers())
            for tensor in (part.weight.data, statistics["running_var"]):
                tensor.uniform_(0.5, 1.5)
            for tensor in (part.bias.data, statistics["running_mean"]):
                tensor.normal_(std=0.1)
    return network


@torch.no_grad()
def test_converted_weights_give_the_original_features(plain, tmp_path):
    keras = plain.conv1.bias is not None
    torch.save(plain.state_dict(), tmp_path / "resnet50.pth")
    images = torch.rand(2, 1, 48, 48) * 2 - 1
    mean, std = ((0.406, 0.456, 0.485), (1, 1, 1)) if keras else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    channels = [((images + 1) / 2 - m) / s for m, s in zip(mean, std, strict=True)]
    expected = [normalize(stage, dim=1) for stage in plain(torch.cat(channels, 1))]
    got = ResNetDistance(str(tmp_path / "resnet50.pth")).features(images)
    assert [f.shape[1:] for f in got] == [(256, 12, 12), (512, 6, 6), (1024, 3, 3), (2048, 2, 2)]
    for mine, right in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-5)


def test_a_folder_of_transformers_is_read(network, tmp_path):
    network.resnet.save_pretrained(tmp_path)
    assert tensor_hash(ResNetDistance(str(tmp_path))) == tensor_hash(network)


@pytest.mark.parametrize("name", [None, "absent.pth", "other.pth", "tensor.pth", "part.pth", "page.pth"])
def test_missing_weights_are_refused_with_the_file_to_download(name, tmp_path):
    torch.save({"classifier.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    torch.save({"layer4.2.conv3.weight": torch.zeros(1)}, tmp_path / "part.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"RadImageNet-ResNet50_notop\.pth.*model\.perceptual_ckpt"):
        load_perceptual(name and str(tmp_path / name), weight=0.05, every=8, crop=12, noise_limit=0.3)

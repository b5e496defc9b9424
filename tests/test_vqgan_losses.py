import pytest
import torch
from torch import nn

from common.keyed import KeyedRandom
from vq_gan_3d.discriminators import PatchDiscriminator, feature_distance, hinge_loss, without_gradients_of
from vq_gan_3d.losses import AdversarialLoss, LossWeights, gradient_error, random_planes
from vq_gan_3d.perceptual import VGG16Distance, load_perceptual


def keyed(*keys: int) -> KeyedRandom:
    return KeyedRandom(torch.tensor(keys), "cpu")


def gradients(network: nn.Module) -> torch.Tensor:
    """Sum of the gradients' magnitudes of all parameters."""
    sums = [parameter.grad.abs().sum() for parameter in network.parameters() if parameter.grad is not None]
    return torch.stack([torch.zeros(()), *sums]).sum()


def test_the_losses_of_the_two_sides_do_not_mix():
    torch.manual_seed(0)
    loss = AdversarialLoss(
        PatchDiscriminator(2, channels=4, num_layers=2),
        PatchDiscriminator(3, channels=4, num_layers=2),
        LossWeights(gan=1.0, features=1.0),
    )
    real, fake = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16, requires_grad=True)
    to_fake = torch.autograd.grad(loss(real, fake, keyed(0, 1))[0], fake)[0]
    assert to_fake.abs().sum() > 0
    loss(real, fake, keyed(0, 1))[0].backward()
    assert gradients(loss) == 0
    fake.grad = None
    loss(real, fake, keyed(0, 1))[1].backward()
    assert gradients(loss) > 0
    assert fake.grad is None or fake.grad.eq(0).all()


def test_hinge_loss_and_feature_distance_have_known_values():
    assert hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])).item() == 0.5 * (0.5 + 1.0)
    real, fake = [torch.zeros(2), torch.zeros(1)], [torch.ones(2), torch.full((1,), 9.0)]
    assert feature_distance(real, fake).item() == 1  # the verdict, last, does not count


def test_without_gradients_of_restores_them():
    network = nn.Linear(1, 1)
    with without_gradients_of(network):
        assert not network.weight.requires_grad
    assert network.weight.requires_grad


def test_random_planes_are_the_same_slices_of_both_volumes():
    volume = torch.arange(2 * 4 * 5 * 6.0).view(2, 1, 4, 5, 6)
    planes = list(random_planes(keyed(3, 4), volume, volume + 1))
    assert [tuple(a.shape) for a, _ in planes] == [(2, 1, 5, 6), (2, 1, 4, 6), (2, 1, 4, 5)]
    assert all((b - a).eq(1).all() for a, b in planes)


def test_a_samples_planes_follow_from_its_key():
    volume = torch.arange(3 * 16**3.0).view(3, 1, 16, 16, 16)
    together = [a for (a,) in random_planes(keyed(1, 2, 3), volume)]
    for place, key in enumerate((1, 2, 3)):
        alone = [a for (a,) in random_planes(keyed(key), volume[place : place + 1])]
        assert all(one[place].equal(other[0]) for one, other in zip(together, alone, strict=True))
    slices = {float(next(random_planes(keyed(key), volume[:1]))[0][0, 0, 0, 0]) for key in range(40)}
    assert len(slices) > 8


def test_perceptual_weights_are_read_from_torchvisions_file(tmp_path):
    torch.manual_seed(0)
    source = VGG16Distance("random")
    published = {f"features.{name}": value for name, value in source.features.state_dict().items()}
    torch.save(published | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    read = load_perceptual(str(tmp_path / "vgg16.pth"), 1.0)
    assert read is not None
    for name, value in read.features.state_dict().items():
        assert value.equal(source.features.state_dict()[name]), name


def test_a_perceptual_weight_without_its_file_is_refused(tmp_path):
    assert load_perceptual(None, 0.0) is None
    with pytest.raises(ValueError, match="vgg16-397923af.pth"):
        load_perceptual(None, 0.5)
    with pytest.raises(ValueError, match="no file of weights at .*missing.pth: download"):
        load_perceptual(str(tmp_path / "missing.pth"), 0.5)


@pytest.mark.parametrize("content", [{"conv.weight": torch.zeros(1)}, {"model": {"a": 1}}, torch.zeros(1), "vgg19"])
def test_another_network_is_refused_with_the_file_to_download(tmp_path, content):
    if content == "vgg19":  # it has all of VGG16's names
        sizes = {name: tuple(t.shape) for name, t in VGG16Distance("random").features.state_dict().items()}
        content = {f"features.{name}": torch.zeros(size) for name, size in sizes.items()}
        content["features.34.weight"] = torch.zeros(512, 512, 3, 3)
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"does not hold torchvision's VGG16.*vgg16-397923af\.pth"):
        load_perceptual(str(tmp_path / "other.pth"), 0.5)


def test_a_file_that_is_no_weights_is_refused_with_the_file_to_download(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        (tmp_path / "cut.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.pth is not a readable file of weights.*vgg16-397923af\.pth"):
            load_perceptual(str(tmp_path / "cut.pth"), 0.5)


def test_gradient_error_counts_jumps_and_not_offsets():
    real = torch.rand(2, 1, 8, 8, 8)
    torch.testing.assert_close(gradient_error(real, real + 0.3), torch.tensor(0.0), atol=1e-10, rtol=0)
    step = torch.zeros(8)
    step[4:] = 0.5  # one of seven differences along one axis, as where two blocks meet
    for axis in range(3):
        shape = [8 if a == axis else 1 for a in range(3)]
        torch.testing.assert_close(gradient_error(real, real + step.view(shape)), torch.tensor(0.25 / 7))
    slope = torch.linspace(0, 0.5, 8)[:, None, None]  # the same rise, without a jump
    assert gradient_error(real, real + slope) < 0.2 * 0.25 / 7

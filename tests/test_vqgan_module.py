import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vq_gan_3d.discriminators import PatchDiscriminator
from vq_gan_3d.losses import LossWeights
from vq_gan_3d.module import VQGANModule
from vq_gan_3d.perceptual import VGG16Distance
from vq_gan_3d.pictures import above_each_other
from vq_gan_3d.quantizers import VectorQuantizer
from vq_gan_3d.vqgan import VQGAN

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Patches(Dataset):
    """Smooth random patches, always the same."""

    def __init__(self, count=8, side=16):
        coarse = torch.randn(count, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        self.ct = nn.functional.interpolate(coarse, (side,) * 3, mode="trilinear", align_corners=True).tanh()

    def __len__(self):
        return len(self.ct)

    def __getitem__(self, index):
        return {"ct": self.ct[index], "patient_id": str(index), "sample_key": torch.tensor(index)}


class Data(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.train = Patches()

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=2)

    val_dataloader = train_dataloader


def optimizer(groups):
    return torch.optim.Adam(groups, 1e-3)


def make_module(weights=None, **arguments):
    torch.manual_seed(0)
    network = VQGAN(2, 4, VectorQuantizer(16, 4), encoder_blocks=(0, 1), decoder_blocks=(1, 0))
    return VQGANModule(network, weights or LossWeights(), optimizer, **arguments)


def make_discriminators():
    torch.manual_seed(1)
    return [PatchDiscriminator(dims, channels=4, num_layers=2) for dims in (2, 3)]


def fit(module, folder, steps, ckpt_path=None, **arguments):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )
    trainer.fit(module, Data(), ckpt_path=ckpt_path)
    return trainer


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other, prefix):
    return all(value.equal(other[name]) for name, value in one.items() if name.startswith(prefix))


@pytest.fixture
def gan():
    weights = LossWeights(l1=1.0, gan=0.1, features=1.0, disc_start=2)
    return make_module(weights, discriminators=make_discriminators())


def test_training_lowers_the_validation_error(tmp_path):
    module = make_module(LossWeights(l1=4.0, l2=4.0))
    start = fit(module, tmp_path, 4).callback_metrics["val/psnr"]
    end = fit(module, tmp_path, 40).callback_metrics
    assert end["val/psnr"] > start + 1
    assert {"val/loss", "val/psnr", "val/perplexity", "train/l1", "train/loss"} <= end.keys()


def test_psnr_is_that_of_the_whole_validation_set(tmp_path):
    module = make_module()
    metrics = fit(module, tmp_path, 4).callback_metrics
    ct = Patches().ct
    with torch.no_grad():
        error = (module.eval().vqgan(ct)[0] - ct).square().mean()
    assert metrics["val/psnr"].item() == pytest.approx(10 * torch.log10(4 / error).item(), abs=1e-3)


def test_discriminators_stand_still_until_their_start(tmp_path, gan):
    before = state(gan)
    assert fit(gan, tmp_path, 2).global_step == 2
    assert same(before, state(gan), "adversarial.")
    assert not same(before, state(gan), "vqgan.")
    before = state(gan)
    trainer = fit(gan, tmp_path, 3, ckpt_path=str(next(tmp_path.rglob("*.ckpt"))))
    assert trainer.global_step == 3  # one per batch, with two networks in training
    assert not same(before, state(gan), "adversarial.slices")
    assert not same(before, state(gan), "adversarial.volumes")
    assert "train/discriminator" in trainer.callback_metrics


def test_the_perceptual_network_stays_outside_frozen_and_passes_gradients(tmp_path):
    network = VGG16Distance("random")
    before = copy.deepcopy(network.state_dict())
    module = make_module(LossWeights(perceptual=1.0), perceptual=network)
    metrics = fit(module.train(), tmp_path, 1, limit_val_batches=0).callback_metrics
    assert metrics["train/perceptual"] > 0
    assert not any("features" in name for name in module.state_dict())
    assert not network.train().training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(network(x, torch.rand(1, 1, 16, 16)), x)
    assert grad.abs().sum() > 0
    assert network(x, x).item() == 0


def test_weights_without_their_networks_are_refused():
    with pytest.raises(ValueError, match="two discriminators"):
        make_module(LossWeights(gan=1.0))
    with pytest.raises(ValueError, match="needs the VGG16 network"):
        make_module(LossWeights(perceptual=1.0))
    with pytest.raises(ValueError, match="'l1': -1.0"):
        LossWeights(l1=-1.0)
    assert make_module(discriminators=make_discriminators()).adversarial is None  # no weight, no network


def test_a_fresh_run_starts_from_the_linear_codec_and_a_resumed_one_does_not(tmp_path, monkeypatch):
    calls = []
    original = VQGAN.init_linear_from

    def recorded(network, patches):
        calls.append(patches.shape)
        original(network, patches)

    monkeypatch.setattr(VQGAN, "init_linear_from", recorded)
    first = make_module(meta={"name": "tiny"})
    trainer = fit(first, tmp_path, 2)
    assert calls == [(8, 1, 16, 16, 16)]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["xray2ctpa"] == {"name": "tiny"}

    resumed = make_module()
    fit(resumed, tmp_path, 2, ckpt_path=str(tmp_path / "last.ckpt"))
    assert len(calls) == 1
    assert same(state(first), state(resumed), "")

    new_training = make_module()
    new_training.load_state_dict(stored["state_dict"])
    fit(new_training, tmp_path, 1)
    assert len(calls) == 1


def test_resuming_continues_as_if_never_interrupted(tmp_path):
    straight, begun, resumed = make_module(), make_module(), make_module()
    fit(straight, tmp_path, 8)
    fit(begun, tmp_path, 4).save_checkpoint(tmp_path / "half.ckpt")  # one epoch
    fit(resumed, tmp_path, 8, ckpt_path=str(tmp_path / "half.ckpt"))
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_a_schedule_sets_the_learning_rate_every_step(tmp_path):
    def schedule(optimizer, total_steps):
        assert total_steps == 3
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    trainer = fit(make_module(lr_schedule=schedule), tmp_path, 3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 8)


@pytest.mark.parametrize("largest", [1.0, 0.0])
def test_gradients_are_clipped_per_side(gan, largest):
    """Or not at all, by a largest norm of 0."""
    gan.clip_norm = largest
    gan.adversarial.weights = LossWeights(gan=1.0)
    sgd = torch.optim.SGD([{"params": list(part.parameters())} for part in (gan.vqgan, gan.adversarial)], 1.0)
    for parameter in gan.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    gan.log = lambda *_: None
    gan.weights = LossWeights(gan=1.0)
    gan._trainer = None
    gan.configure_gradient_clipping(sgd)
    for group in sgd.param_groups:
        if largest == 0:
            assert all(p.grad.eq(10).all() for p in group["params"])
        else:
            norm = torch.stack([p.grad.square().sum() for p in group["params"]]).sum().sqrt()
            assert norm.item() == pytest.approx(1, rel=1e-3)


def test_pictures_show_the_original_above_the_reconstruction():
    volume = torch.zeros(1, 4, 6, 8)
    picture = above_each_other(volume, volume + 5)
    assert picture.shape == (1, 2 * 6, 8 + 8 + 6)
    assert picture[:, :4, :8].eq(0.5).all()
    assert picture[:, 6:10, :8].eq(1).all()


def test_reconstructions_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = pl.loggers.TensorBoardLogger(tmp_path)
    fit(make_module(), tmp_path, 4, logger=logger, log_every_n_steps=1)
    events = EventAccumulator(logger.log_dir).Reload()
    assert "val/original_above_reconstruction" in events.Tags()["images"]
    assert {"train/perplexity", "train/grad_norm", "val/psnr"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path, gan):
    """Plain DDP, before and after the discriminators' start: every parameter takes part in every step."""
    trainer = fit(gan, tmp_path, 4, strategy="ddp_spawn", devices=2)
    stored = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
    assert stored["global_step"] == 4
    assert trainer.callback_metrics["train/discriminator"] > 0
    assert all(value.isfinite().all() for value in stored["state_dict"].values())

"""The perceptual loss of stage 2: where its gradient goes, when it is there, and what it compares."""

from functools import partial
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.utils.data import DataLoader, Dataset

from common.tensor_hash import tensor_hash
from ddpm.denoiser import PatchDenoiser
from ddpm.diffusion import CosineDDPM, Regression, draw_like
from ddpm.latent_scale import LatentScale
from ddpm.module import PatchDDPM
from ddpm.perceptual import PerceptualLoss, crop_corners, cut, slices
from ddpm.perceptual_resnet import ResNetDistance
from ddpm.unet3d import UNet3D
from medclip_cond.tiny_random import TinyRandomEncoder
from pipeline.cli import CONFIG_DIR
from pipeline.training.schedules import warmup
from vq_gan_3d.codec import FrozenCodec
from vq_gan_3d.quantizers import KLBottleneck
from vq_gan_3d.vqgan import VQGAN


@pytest.fixture(scope="module")
def network():
    return ResNetDistance("random")


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    vqgan = VQGAN(4, 3, KLBottleneck(3))
    for parameter in vqgan.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return FrozenCodec(vqgan)


class Items(Dataset):
    """Cached patches of 16 voxels."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        stream = torch.Generator().manual_seed(i)
        return {
            "latent": torch.randn(3, 4, 4, 4, generator=stream),
            "xray_tokens": torch.randn(6, 5, generator=stream),
            "xray_pooled": torch.randn(4, generator=stream),
            "xray": torch.rand(1, 16, 16, generator=stream),
            "xray_camera": torch.tensor([[0.5, 0, 0, 7.5], [0, 0, -0.5, 7.5], [0, 0, 0, 1]]),
            "patch_coord": torch.zeros(3, dtype=torch.int64),
            "spacing": torch.ones(3),
            "volume_shape": torch.full((3,), 16),
            "sample_key": torch.tensor(1000 + i),
            "draw": torch.tensor(i),
        }


def make_module(codec, perceptual, diffusion=None):
    torch.manual_seed(0)
    unet = partial(UNet3D, dim=8, dim_mults=(1, 2), num_res_blocks=1, middle_blocks=1)
    denoiser = PatchDenoiser(unet, 3, pooled_dim=4, token_dim=5, cond=("pooled", "tokens"))
    for parameter in denoiser.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    encoder = TinyRandomEncoder(seed=0)
    encoder.grid = (2, 3)
    return PatchDDPM(
        denoiser,
        diffusion or CosineDDPM(num_steps=1000),
        codec,
        encoder,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        lr_schedule=partial(warmup, warmup_steps=1, final=1.0),
        condition_dropout=0.5,  # some of every few samples
        latent_scale=LatentScale(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([2.0, 1.0, 0.5])),
        meta={},
        perceptual=perceptual,
    )


def gradients(codec, perceptual, diffusion=None):
    module = make_module(codec, perceptual, diffusion)
    module.loss(next(iter(DataLoader(Items(), batch_size=4)))).backward()
    return {name: p.grad for name, p in module.denoiser.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("diffusion", "limit"), [(CosineDDPM(1000), 0.9), (Regression(), 0.1)])
def test_the_gradient_reaches_the_unet_and_nothing_frozen(diffusion, limit, codec, network):
    """Of a regression too, at whose time there would be nothing but noise."""
    perceptual = PerceptualLoss(network, weight=0.05, every=1, crop=3, noise_limit=limit)
    without, with_it = gradients(codec, None, diffusion), gradients(codec, perceptual, diffusion)
    added = {name: with_it[name] - without[name] for name in without}
    assert all(gradient.isfinite().all() for gradient in added.values())
    assert [name for name, gradient in added.items() if gradient.abs().max() < 1e-9] == []
    assert [name for net in (codec, perceptual) for name, p in net.named_parameters() if p.grad is not None] == []


def test_the_decoder_gets_latents_on_its_own_scale(codec, network, monkeypatch):
    module = make_module(codec, PerceptualLoss(network, weight=0.05, every=1, crop=4, noise_limit=0.9))
    batch, spy = next(iter(DataLoader(Items(), batch_size=2))), Mock(wraps=codec.decode_patch)
    monkeypatch.setattr(codec, "decode_patch", spy)
    module.loss(batch)
    torch.testing.assert_close(spy.call_args_list[0].args[0], batch["latent"])  # the truth comes first


def test_a_run_uses_it_every_third_step_and_changes_nothing_frozen(codec, network, tmp_path):
    perceptual = PerceptualLoss(network, weight=0.05, every=3, crop=3, noise_limit=0.9)
    module, used_at = make_module(codec, perceptual), []
    hook = perceptual.register_forward_hook(lambda *_: used_at.append(module.global_step))
    before = [tensor_hash(net) for net in (codec, perceptual)]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    items = DataLoader(Items(), batch_size=2)
    trainer.fit(module, items, items)
    hook.remove()
    assert used_at == [2]  # and not in validation, at step 5
    assert trainer.callback_metrics["train/perceptual"] > 0
    assert [tensor_hash(net) for net in (codec, perceptual)] == before
    assert not [name for name in module.state_dict() if "resnet" in name]


def test_samples_at_high_noise_count_as_zero(network):
    loss = PerceptualLoss(network, weight=1.0, every=1, crop=8, noise_limit=0.3)
    truth = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    predicted = truth.flip(2).requires_grad_()
    keys = torch.tensor([3, 4])
    distance = loss(lambda z: z, predicted, truth, torch.tensor([0.29, 0.3]), keys)
    distance.backward()
    assert predicted.grad is not None
    assert predicted.grad[0].any()
    assert not predicted.grad[1].any()
    alone = loss(lambda z: z, predicted[:1], truth[:1], torch.tensor([0.29]), keys[:1])
    torch.testing.assert_close(distance, alone / 2)


def test_crops_follow_their_key_whatever_the_batch():
    keys = torch.arange(200, 300)
    corners = crop_corners(keys, (8, 9, 10), 6)
    assert crop_corners(keys[40:43], (8, 9, 10), 6) == corners[40:43]
    places = torch.tensor(corners)
    assert places.amin(0).tolist() == [0, 0, 0]
    assert places.amax(0).tolist() == [2, 3, 4]
    u, _, _ = draw_like(torch.zeros(100, 1), keys)
    together = torch.corrcoef(torch.cat([u[None], places.T.float()]))
    assert together[0, 1:].abs().max() < 0.3  # the place says nothing of the time


def test_a_crop_is_a_cube_of_the_latent():
    z = torch.arange(2.0 * 4 * 5 * 6).view(2, 1, 4, 5, 6)
    cubes = cut(z, [[0, 1, 2], [1, 2, 0]], 3)
    assert cubes.shape == (2, 1, 3, 3, 3)
    torch.testing.assert_close(cubes[1, 0], z[1, 0, 1:4, 2:5, 0:3])
    assert cut(z, crop_corners(torch.tensor([1, 2]), (4, 5, 6), 12), 12).shape == (2, 1, 4, 4, 4)


def test_slices_come_from_all_three_planes():
    volume = torch.rand(2, 1, 16, 16, 16)
    got = slices(volume)
    assert got.shape == (2 * 9, 1, 16, 16)  # 2, 7, 12 in each plane
    for image, expected in ((got[1], volume[0, :, 7]), (got[9 + 5], volume[1, :, :, 12])):
        torch.testing.assert_close(image, expected)
    torch.testing.assert_close(got[6], volume[0, :, :, :, 2])


def test_decoding_a_patch_equals_the_volume_away_from_its_faces(codec):
    z = torch.randn(1, 3, 13, 13, 13, generator=torch.Generator().manual_seed(0), requires_grad=True)
    decoded = codec.decode_patch(z)
    inner = slice(4 * codec.decoder_halo, -4 * codec.decoder_halo)
    whole = codec.decode_volume(z.detach()[0])[None]
    torch.testing.assert_close(decoded[..., inner, inner, inner], whole[..., inner, inner, inner])
    decoded.square().mean().backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"every": 0}, {"crop": 0}, {"noise_limit": 0.0}])
def test_senseless_settings_are_refused(wrong):
    settings = {"weight": 0.05, "every": 8, "crop": 12, "noise_limit": 0.3} | wrong
    with pytest.raises(ValueError, match="perceptual weight > 0"):
        PerceptualLoss(nn.Identity(), **settings)


def shipped(*overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return instantiate(compose("train_ddpm", list(overrides)).module.perceptual, _convert_="all")


def test_the_guides_knob_switches_it_on():
    assert shipped() is None
    loss = shipped("model.perceptual_weight=0.05", "model.perceptual_ckpt=random")
    assert (loss.weight, loss.every) == (0.05, 8)
    with pytest.raises(Exception, match="RadImageNet"):
        shipped("model.perceptual_weight=0.05")

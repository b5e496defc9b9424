"""Every setting that the guide names changes what it says, on tiny data."""

import pytest
import torch

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.store.store import VolumeStore
from ddpm.plan import Grid, SamplingPlan
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import CHANNELS, DDPM_CKPT, built, built_ddpm, load, run


def test_patch_size_changes_patches_latents_and_what_follows(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.patch_size=[24,16,20]")
    batch = made.batch
    assert batch["ct"].shape == (2, 1, 24, 16, 20)
    assert (made.cfg.model.diffusion_depth_size, made.cfg.model.diffusion_img_size) == (6, 5)
    assert made.module.meta["stride"] == [16, 12, 12]  # three quarters, in whole latent voxels
    assert made.module._raw_latents(batch).shape == (2, CHANNELS, 6, 4, 5)
    made.module.latent_scale.measure([made.module._raw_latents(batch)])
    assert torch.isfinite(made.module.loss(batch))


def test_patch_size_changes_cached_latents_alike(workshop, tiny_latents, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.patch_size=[24,16,20]", f"dataset.latents_dir={tiny_latents}")
    assert made.batch["latent"].shape == (2, CHANNELS, 6, 4, 5)


def test_without_patches_a_volume_is_trained_on_and_drawn_whole(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.use_patches=false", "model.max_steps=1")
    model = CTSampler(DDPM_CKPT)
    shapes = [case.shape for case in VolumeStore(workshop.store).cases]
    largest = [-(-max(sizes) // 4) * 4 for sizes in zip(*shapes, strict=True)]
    assert list(model.description.patch_size) == largest
    xray = model.load_xray(workshop.xray)
    for shape in shapes:
        grid = Grid(shape, (9.0, 9.0, 9.0))
        assert model.generator.settle(SamplingPlan(1), xray, grid).mode == "whole"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batch_size_changes_batches_and_steps(batch_size, workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, f"model.batch_size={batch_size}")
    assert made.batch["ct"].shape[0] == batch_size
    assert len(made.data.train_dataloader()) == 8 // batch_size


def test_dim_mults_change_the_levels_of_the_network(workshop, elsewhere):
    two, three = (
        built_ddpm(*workshop.ddpm, f"model.dim_mults={mults}").module.denoiser.unet for mults in ("[1,2]", "[1,2,4]")
    )
    assert [list(conv.weight.shape[:2]) for conv in two.halve] == [[16, 8]]
    assert [list(conv.weight.shape[:2]) for conv in three.halve] == [[16, 8], [32, 16]]


def test_stride_changes_the_windows_of_sampling(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.stride=[8,8,8]", "model.max_steps=1")
    default, finer = CTSampler(workshop.ddpm_ckpt), CTSampler(DDPM_CKPT)
    assert (default.description.stride, finer.description.stride) == ((12, 12, 12), (8, 8, 8))
    grid, plan = Grid((40, 16, 16), (9.0, 9.0, 9.0)), SamplingPlan(steps=1, mode="fused", window_batch=1)
    assert default.generator.evaluations(grid, plan) == 3  # starts 0, 12, 24
    assert finer.generator.evaluations(grid, plan) == 4  # starts 0, 8, 16, 24


def test_stride_is_the_grid_from_which_patches_are_drawn_if_wished(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.patch_draw=grid", "model.stride=[16,16,16]", "model.patches_per_volume=8")
    dataset = made.data.train
    starts = {tuple(dataset[i]["patch_coord"].tolist()) for i in range(8)}
    allowed = [{0, 16, n - 16} for n in (-(-n // 4) * 4 for n in dataset.cases[0].shape)]
    assert len(starts) == 8
    assert all(s in axis for start in starts for s, axis in zip(start, allowed, strict=True))


def test_the_codec_trains_on_patches_that_overhang_and_is_validated_on_others(workshop, elsewhere):
    made = built(train_vqgan_patches_4gpu, *workshop.vqgan, "model.overhang=4")
    assert tuple(data.random_starts.overhang for data in (made.data.train, made.data.val)) == (4, 0)


def test_num_workers_changes_the_loader_and_not_the_data(workshop, elsewhere):
    none, two = (built_ddpm(*workshop.ddpm, f"model.num_workers={n}").data.train_dataloader() for n in (0, 2))
    assert (none.num_workers, two.num_workers) == (0, 2)
    for a, b in zip(none, two, strict=True):
        assert a.pop("patient_id") == b.pop("patient_id")
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_max_epochs_changes_the_number_of_steps(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.max_epochs=2")
    stored = load(DDPM_CKPT)
    assert (stored["epoch"], stored["global_step"]) == (1, 8)


def test_patches_per_volume_changes_the_epoch(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.patches_per_volume=3", "model.val_patches_per_volume=2")
    assert (len(made.data.train), len(made.data.val)) == (4 * 3, 1 * 2)


def test_learning_rate_and_warmup_reach_the_optimizer(workshop, elsewhere):
    lr = ["model.train_lr=0.001", "model.warmup_steps=8"]
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *lr, "model.weight_decay=0.125")
    stored = load(DDPM_CKPT)
    group = stored["optimizer_states"][0]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.001, 0.125)
    assert group["lr"] == pytest.approx(0.001 * 5 / 8)  # that of the fifth step, which would be next


def test_timesteps_and_diffusion_choose_the_noise_levels(workshop, elsewhere):
    ddpm = built_ddpm(*workshop.ddpm, "model.timesteps=50", "diffusion.prediction=x0").module.diffusion
    flow = built_ddpm(*workshop.ddpm, "diffusion=flow").module.diffusion
    assert (len(ddpm.alpha_bar), ddpm.prediction) == (51, "x0")
    assert flow.prediction == "velocity"


def test_snr_limit_weighs_the_loss_by_its_noise(workshop, elsewhere):
    clean, noisy = torch.tensor([0.05]), torch.tensor([0.95])
    plain, weighted = (
        built_ddpm(*workshop.ddpm, "diffusion.prediction=noise", f"diffusion.snr_limit={limit}").module.diffusion
        for limit in ("null", 5)
    )
    assert float(plain.loss_weight(clean)) == float(plain.loss_weight(noisy)) == 1
    assert float(weighted.loss_weight(clean)) < 0.05
    assert float(weighted.loss_weight(noisy)) == 1


def test_cond_leaves_out_what_it_does_not_name(workshop, elsewhere):
    pooled = built_ddpm(*workshop.ddpm, "model.cond=[pooled]").module.denoiser
    assert (pooled.lifter, pooled.unet.token_dim) == (None, None)
    full = built_ddpm(*workshop.ddpm).module.denoiser
    assert sum(p.numel() for p in full.parameters()) > sum(p.numel() for p in pooled.parameters())


def test_the_split_shares_can_hold_a_test_part(tiny_data, elsewhere, workshop):
    shares = ["+dataset.split.test=0.2", "dataset.split.train=0.6", f"dataset.store={elsewhere}/store"]
    made = built_ddpm(*workshop.ddpm, *shares)
    splits = [case.split for case in made.data.train.store.cases]
    assert [splits.count(name) for name in ("train", "val", "test")] == [3, 1, 1]


def test_perceptual_weight_adds_its_loss(workshop, elsewhere):
    losses = []
    for weight in (0.0, 0.05, 0.1):
        perceptual = [f"model.perceptual_weight={weight}", "model.perceptual_ckpt=random", "model.perceptual_every=1"]
        made = built_ddpm(*workshop.ddpm, *perceptual, "model.batch_size=8", "seed=1")
        batch = made.batch
        made.module.latent_scale.measure([made.module._raw_latents(batch)])
        losses.append(float(made.module.loss(batch).detach()))
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)


def test_perceptual_weight_needs_its_network(workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "model.perceptual_weight=0.05")
    assert "model.perceptual_weight=0.05" in message
    assert "model.perceptual_ckpt" in message


def test_hu_window_must_be_that_of_the_vqgan(workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "dataset.hu_window=[-500,500]")
    assert "[-500, 500]" in message
    assert "[-1000, 1000]" in message


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("model.diffusion_img_size=32", ("32", "[16, 16, 16]", "it must be 4")),
        ("model.diffusion_depth_size=8", ("8", "[16, 16, 16]", "it must be 4")),
        ("model.stride=[20,16,16]", ("[20, 16, 16]", "patch size [16, 16, 16]")),
        ("model.stride=[6,8,8]", ("multiples of 4", "[6, 8, 8]")),
        ("model.diffusion_num_channels=8", ("8", "4 channels", "diffusion_num_channels=4")),
    ],
)
def test_sizes_that_disagree_are_named_with_the_right_one(setting, values, workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, setting)
    assert all(value in message for value in values)


def test_a_null_stride_is_three_quarters_of_the_patch(workshop, elsewhere):
    assert built_ddpm(*workshop.ddpm, "model.stride=null").module.meta["stride"] == [12, 12, 12]

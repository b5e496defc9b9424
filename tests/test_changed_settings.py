"""What may change when a training goes on, or starts from another one's weights, does change."""

import pytest
import torch

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from tests.test_resume import LENGTH, stop_at
from tests.tiny import DDPM_CKPT, VQGAN_CKPT, Stopped, built, built_ddpm, load, run


def optimizer_of(path):
    """The first parameter group and the schedule of a checkpoint."""
    content = load(path)
    return content["optimizer_states"][0]["param_groups"][0], content["lr_schedulers"][0]


@pytest.mark.parametrize("stage", ["ddpm", "vqgan"])
def test_another_learning_rate_counts_when_a_training_goes_on(stage, workshop, elsewhere, caplog):
    script, command, ckpt = {
        "ddpm": (train_ddpm_patches_4gpu, workshop.ddpm, DDPM_CKPT),
        "vqgan": (train_vqgan_patches_4gpu, workshop.vqgan, VQGAN_CKPT),
    }[stage]
    command = [*command, *LENGTH, "model.warmup_steps=100"]
    with pytest.raises(Stopped):
        run(script, *command, "model.train_lr=0.001", stop_at(4))
    with caplog.at_level("INFO"):
        run(script, *command, "model.train_lr=0.5")
    group, schedule = optimizer_of(ckpt)
    assert (group["initial_lr"], schedule["base_lrs"][0], schedule["last_epoch"]) == (0.5, 0.5, 12)
    assert group["lr"] == schedule["_last_lr"][0] == pytest.approx(0.5 * 13 / 100)  # that of the step to come
    assert "learning rate: 0.001 in the checkpoint, 0.5 now" in caplog.text


def test_another_learning_rate_counts_from_the_first_step_on(workshop, elsewhere):
    command = [*workshop.ddpm, *LENGTH, "model.warmup_steps=0"]
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, stop_at(4))
    before = load(DDPM_CKPT)["state_dict"]
    changed = ["model.train_lr=0.0", "model.weight_decay=0.125", "model.max_epochs=2"]
    run(train_ddpm_patches_4gpu, *command, *changed)
    assert load(DDPM_CKPT)["global_step"] == 8
    torch.testing.assert_close(load(DDPM_CKPT)["state_dict"], before, rtol=0, atol=0)
    assert optimizer_of(DDPM_CKPT)[0]["weight_decay"] == 0.125


WITHOUT = ["model.gan_weight=0", "model.feature_weight=0"]


@pytest.mark.parametrize(
    ("before", "now"), [(WITHOUT, []), ([], WITHOUT), ([], ["model.disc_channels=8"]), ([], [])], ids=str
)
def test_given_weights_need_not_come_with_the_same_discriminators(before, now, workshop, elsewhere):
    run(train_vqgan_patches_4gpu, *workshop.vqgan, *before, "model.max_steps=1")
    stored = load(VQGAN_CKPT)["state_dict"]
    module = built(train_vqgan_patches_4gpu, *workshop.vqgan, *now, "model.name=new", f"init_from={VQGAN_CKPT}").module
    for name, weights in module.state_dict().items():
        if name.startswith("vqgan.") or before == now:
            torch.testing.assert_close(weights, stored[name], rtol=0, atol=0)
    assert (module.adversarial is None) is (now == WITHOUT)


def test_given_weights_bring_the_scale_of_the_latents_only_with_its_codec(workshop, elsewhere):
    own = workshop.ddpm_ckpt
    same = built_ddpm(*workshop.ddpm, "model.name=same", f"init_from={own}").module
    torch.testing.assert_close(same.latent_scale.std, load(own)["state_dict"]["latent_scale.std"], rtol=0, atol=0)
    run(train_vqgan_patches_4gpu, *workshop.vqgan, "seed=7", "model.max_steps=1")
    other = [*workshop.ddpm, "model.name=other", f"init_from={own}", f"model.vqgan_ckpt={VQGAN_CKPT}"]
    module = built_ddpm(*other).module
    assert not module.latent_scale.is_known  # it will be measured
    (average,) = (v["average"] for k, v in load(own)["callbacks"].items() if k.startswith("WeightAverage"))
    name = "denoiser.unet.head.1.weight"
    torch.testing.assert_close(module.state_dict()[name], average[name], rtol=0, atol=0)

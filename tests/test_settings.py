"""Settings that cannot be are refused before the training, by the command and by check=true, in one message."""

import math
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import encode_latents
import evaluate_ddpm_patches
import export_model
import make_phantom_data
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from common.errors import UserError
from ddpm.denoiser import CONDITIONS
from ddpm.diffusion import PREDICTIONS
from ddpm.plan import AUTO, MODES
from ddpm.samplers import SAMPLERS
from pipeline import schema
from tests.test_configs import COMBINATIONS, needed
from tests.tiny import composed, run


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("model.patch_size=96", "model.patch_size must be three whole numbers above 0 (voxels; d, h, w), got 96"),
        ("model.patch_size='\"128\"'", "model.patch_size must be three whole numbers"),
        ("model.patch_size=[64,64]", "model.patch_size must be three whole numbers"),
        ("model.patch_size=[16.9,16,16]", "above 0 (voxels; d, h, w), got [16.9, 16, 16]"),
        ("model.stride=64", "model.stride must be null or three whole numbers"),
        ("model.stride=[8,8]", "model.stride must be null or three whole numbers"),
        ("model.batch_size=two", "model.batch_size must be a whole number from 1, got 'two'"),
        ("model.batch_size=1.5", "model.batch_size must be a whole number from 1, got 1.5"),
        ("model.batch_size=0", "model.batch_size must be a whole number from 1, got 0"),
        ("model.batch_size=null", "model.batch_size must be a whole number from 1, got None"),
        ("model.batch_size=true", "model.batch_size must be a whole number from 1, got True"),
        ("model.batch_size={a: 1}", "model.batch_size must be a whole number from 1, got {'a': 1}"),
        ("model.dim_mults=4", "model.dim_mults must be a list of one or more whole numbers from 1, got 4"),
        ("model.lifter_widths=[]", "lifter_widths must be a list of one or more whole numbers from 1, got []"),
        ("model.cond=pooled", "model.cond must be a list of pooled, tokens or lifted, got 'pooled'"),
        ("model.compile=yes please", "model.compile must be true or false, got 'yes please'"),
        ("model.train_lr=fast", "model.train_lr must be a number from 0, got 'fast'"),
        ("model.train_lr=nan", "model.train_lr must be a number from 0, got nan"),
        ("model.train_lr=-1", "model.train_lr must be a number from 0, got -1"),
        ("module.perceptual.noise_limit=nan", "module.perceptual.noise_limit must be a number from 0 to 1, got nan"),
        ("+trainer.limit_val_batches=nan", "trainer.limit_val_batches must be a finite number, got nan"),
        ("model.weight_decay=inf", "model.weight_decay must be a number from 0, got inf"),
        ("model.ema_decay=2", "model.ema_decay must be a number from 0 to below 1, got 2"),
        ("model.precision=12", "model.precision must be auto or 32 or"),
        ("model.precision=64", "model.precision must be auto or 32 or 16 or 32-true or bf16-mixed or 16-mixed, got 64"),
        ("model.precision=bf16-true", "model.precision must be auto or 32 or"),
        ("model.warmup_steps=-1", "model.warmup_steps must be a whole number from 0, got -1"),
        ("model.val_patches_per_volume=0", "model.val_patches_per_volume must be a whole number from 1, got 0"),
        ("model.val_every_n_epochs=0", "model.val_every_n_epochs must be a whole number from 1, got 0"),
        ("model.max_epochs=0", "model.max_epochs must be -1 or a whole number from 1, got 0"),
        ("model.batch_size=${model.none}", "Interpolation key 'model.none' not found"),
        ("init_from=${seed}", "init_from must be null or text, and not empty, got 42"),
        (
            "dataset.hu_window=5",
            "dataset.hu_window must be two numbers [lowest, highest] in HU, lowest < highest, got 5",
        ),
        ("dataset.hu_window=[100,-100]", "lowest < highest, got [100, -100]"),
        ("dataset.hu_window=[100,100]", "lowest < highest, got [100, 100]"),
        ("dataset.root=2024", "dataset.root must be text, and not empty, got 2024"),
        (
            "dataset.spacing=-1",
            "dataset.spacing must be null or median or a number above 0 or three of them (mm; d, h, w), got -1",
        ),
        ("dataset.split={train: 2}", "dataset.split must be shares from 0 to 1 by name"),
        ("diffusion.prediction=magic", "diffusion.prediction must be noise or x0 or v or velocity, got 'magic'"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be a whole number from 1, got 0"),
        ("seed=abc", "seed must be a whole number from 0 to 4294967295, got 'abc'"),
        ("resume=maybe", "resume must be auto or never, got 'maybe'"),
        ("check=perhaps", "check must be true or false, got 'perhaps'"),
    ],
)
def test_a_value_that_cannot_be_is_one_message(setting, rule, elsewhere, refused):
    assert rule in refused(train_ddpm_patches_4gpu, "dataset.root=/data", setting)


@pytest.mark.parametrize(
    ("script", "setting", "rule"),
    [
        (train_vqgan_patches_4gpu, "model.adam_betas=[0.5,1]", "two numbers from 0 to below 1, got [0.5, 1]"),
        (train_vqgan_patches_4gpu, "model.gan_weight=-1", "model.gan_weight must be a number from 0, got -1"),
        (encode_latents, "bf16=auto", "bf16 must be true or false, got 'auto'"),
        (encode_latents, "tile=0", "tile must be a whole number from 1, got 0"),
        (evaluate_ddpm_patches, "num_cases=0", "num_cases must be null or a whole number from 1, got 0"),
        (make_phantom_data, "dataset.phantom=3", "dataset.phantom must be a group of settings, got 3"),
        (make_phantom_data, "dataset.phantom.num_cases=1.5", "num_cases must be a whole number from 1, got 1.5"),
        (train_vqgan_patches_4gpu, "optimizer.lr=auto", "optimizer.lr must be a number from 0, got 'auto'"),
        (train_vqgan_patches_4gpu, "optimizer.betas=/", "two numbers from 0 to below 1, got '/'"),
        (sample_ddpm_patches, "output=${seed}", "output must be text, and not empty, got 42"),
        (prepare_data, "strict=1", "strict must be true or false, got 1"),
        (make_phantom_data, "+dataset.phantom.nonsense=1", "dataset.phantom.nonsense is no setting"),
        (train_ddpm_patches_4gpu, "+model.warmup=5", "model.warmup is no setting, so it would change nothing"),
    ],
)
def test_every_command_looks_at_its_settings(script, setting, rule, elsewhere, refused):
    needed = {sample_ddpm_patches: ["xray=a.png", "ckpt=a.ckpt"]}
    assert rule in refused(script, *needed.get(script, ["dataset.root=/data"]), setting)


@pytest.mark.parametrize("name", sorted({name for name, *_ in COMBINATIONS} - {"demo"}))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_setting_may_be_anything_but_finite(value, name):
    """Every number of every command, alone and within a list."""
    cfg = composed(name, *needed(name))
    spoiled = {}
    for key, found in schema.settings(OmegaConf.to_container(cfg, resolve=True)):
        if isinstance(found, list) and found and not isinstance(found[0], str):
            spoiled[key] = [value, *found[1:]]
        elif isinstance(found, int | float):
            spoiled[key] = value
    for key, wrong in spoiled.items():
        OmegaConf.update(cfg, key, wrong, force_add=True)
    with pytest.raises(UserError) as refused:
        schema.check(name, cfg)
    for key in spoiled:
        assert f"{key} must be " in str(refused.value)


def test_whole_numbers_do_where_torch_wants_others(tiny_data, elsewhere):
    run(train_vqgan_patches_4gpu, *tiny_data.vqgan, "model.adam_betas=[0,0.9]", "model.precision=16", "check=true")


def test_all_that_cannot_be_is_told_at_once(refused):
    message = refused(train_ddpm_patches_4gpu, "model.batch_size=0", "model.patch_size=[8]")
    for key in ("dataset.root", "model.batch_size", "model.patch_size"):
        assert f"{key} " in message


@pytest.mark.parametrize(
    "setting", ["dataset.xray_fov_mm=380.5", "dataset.hu_window=[-1000.5,1000]", "model.train_lr=1"]
)
def test_a_value_of_another_number_type_is_taken(setting):
    schema.check("train_ddpm", composed("train_ddpm", "dataset.root=/data", setting))


BUILT = ("module", "trainer", "callbacks")  # by a script, from the settings of the groups


@pytest.mark.parametrize(("name", "group", "choice"), COMBINATIONS, ids=["-".join(c) for c in COMBINATIONS])
def test_every_shipped_setting_has_a_rule_and_keeps_it(name, group, choice):
    weights = ["xray_encoder.weights=folder"] if choice == "medclip" else []
    cfg = composed(name, f"{group}={choice}", *needed(name), *weights)
    schema.check(name, cfg)
    if name != "demo":  # whose settings are those of other commands
        values = schema.settings(OmegaConf.to_container(cfg))
        keys = [key for key, value in values if schema.rule_of(key) is None and "${" not in str(value)]
        assert [k for k in keys if not k.endswith("._target_") and k.partition(".")[0] not in BUILT] == []


def test_the_choices_are_those_that_the_networks_know():
    choices = {"sampler": SAMPLERS, "mode": [*MODES, AUTO], "diffusion.prediction": PREDICTIONS, "cond": CONDITIONS}
    for key, known in choices.items():
        for choice in known:
            assert schema.rule_of(key).allows([choice] if key == "cond" else choice)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("trainer.accelerator=gpu", "No supported gpu backend found"),
        ("trainer.strategy=magic", "strategy='magic'"),
    ],
)
def test_check_builds_what_a_training_needs(setting, named, workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "check=true", setting)
    assert named in message
    assert list(elsewhere.iterdir()) == []


def test_check_reads_an_item(workshop, elsewhere, refused, monkeypatch):
    def unreadable(*_):
        raise UserError("this volume is damaged")

    monkeypatch.setattr("dataset.store.store.VolumeStore.read_hu", unreadable)
    for script, settings in (
        (train_ddpm_patches_4gpu, workshop.ddpm),
        (train_vqgan_patches_4gpu, workshop.vqgan),
    ):
        assert "this volume is damaged" in refused(script, *settings, "check=true")


def test_check_leaves_nothing_behind(workshop, elsewhere, caplog):
    with caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, "check=true")
    assert "in order" in caplog.text
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("script", [train_ddpm_patches_4gpu, train_vqgan_patches_4gpu, encode_latents])
def test_check_looks_at_pairs_that_are_not_prepared_and_writes_nothing(script, workshop, elsewhere, caplog, refused):
    settings = {train_ddpm_patches_4gpu: workshop.ddpm, train_vqgan_patches_4gpu: workshop.vqgan}
    settings = [*settings.get(script, workshop.encode), "check=true", "dataset.store=none"]
    with caplog.at_level("INFO"):
        run(script, *settings)
    assert f"5 pairs in {workshop.root} are not prepared yet" in caplog.text
    assert list(elsewhere.iterdir()) == []
    assert "no good case" in refused(script, *settings, "dataset.ct_pattern=*.mha", f"dataset.root={films(workshop)}")
    assert not Path("none").exists()


def films(workshop):
    """A data set that has lost its table and its CTs."""
    shutil.copytree(workshop.root, "films", ignore=shutil.ignore_patterns("store", "*.nii.gz", "pairs.csv"))
    return "films"


def test_checking_an_encoding_writes_nothing(workshop, elsewhere):
    run(encode_latents, *workshop.encode, "check=true", "dataset.latents_dir=latents")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("module.weights.l1=much", "not supported between instances of 'str' and 'int'"),
        ("+module.nonsense=1", "unexpected keyword argument 'nonsense'"),
        ("callbacks.best._target_=none.Such", "Error locating target 'none.Such'"),
    ],
)
def test_what_parts_do_not_take_names_the_settings_given_to_them(setting, said, workshop, elsewhere, refused):
    message = refused(train_vqgan_patches_4gpu, *workshop.vqgan, "check=true", setting)
    assert said in message
    assert f"look at {setting}" in message


def test_a_setting_taken_out_is_named(workshop, elsewhere, refused):
    settings = [f"ckpt={workshop.ddpm_ckpt}", "output=model.ckpt"]
    assert "look at ~overwrite" in refused(export_model, *settings, "~overwrite")

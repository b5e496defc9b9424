"""Every shipped config composes, its networks have the guide's sizes, and the guide's models take a step."""

from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.memory import peak_bytes
from common.tensor_hash import tensor_hash
from pipeline import cli
from pipeline.checkpoints.parts import PARTS, describe
from tests.tiny import built_ddpm, composed, run
from vq_gan_3d.quantizers import KLBottleneck
from vq_gan_3d.vqgan import VQGAN

NEEDED = ["dataset.root=/data"]
PRETRAINED_DIM = 768  # of the ViT-B encoders
SCRIPTS = sorted(p.stem for p in cli.CONFIG_DIR.glob("*.yaml") if p.stem != "script")


def choices(group):
    return sorted(p.stem for p in (cli.CONFIG_DIR / group).glob("*.yaml"))


def defaults(name):
    """The groups of a script's config."""
    entries = OmegaConf.load(cli.CONFIG_DIR / f"{name}.yaml").defaults
    return [key for entry in entries if not isinstance(entry, str) for key in entry if "override" not in key]


def fits(name, group, choice):
    # The model group serves two scripts; a model's name begins with its stage.
    return group != "model" or choice.startswith("vqgan" if name == "train_vqgan" else "ddpm")


COMBINATIONS = [
    (name, group, choice)
    for name in SCRIPTS
    for group in defaults(name)
    for choice in choices(group)
    if fits(name, group, choice)
]


def needed(name):
    """Settings that have no default."""
    wanted = {"sample_ddpm": ["xray=a.png", "output=a.nii.gz"], "evaluate_files": ["generated=a", "real=b"]}
    return [*(NEEDED if "dataset" in defaults(name) else []), *wanted.get(name, [])]


@pytest.mark.parametrize(("name", "group", "choice"), COMBINATIONS, ids=["-".join(c) for c in COMBINATIONS])
def test_every_choice_of_every_group_composes_and_resolves(name, group, choice):
    cfg = composed(name, f"{group}={choice}", *needed(name))
    OmegaConf.resolve(cfg)
    assert "${" not in OmegaConf.to_yaml(cfg)


@pytest.mark.parametrize("group", ["quantizer", "diffusion", "xray_encoder"])
def test_every_shipped_part_can_be_named_by_a_checkpoint(group):
    script = "train_vqgan" if group == "quantizer" else "train_ddpm"
    for choice in choices(group):
        part = OmegaConf.to_container(composed(script, f"{group}={choice}", *NEEDED)[group], resolve=True)
        assert describe(part)["part"] in PARTS, choice


@pytest.mark.parametrize("quantizer", choices("quantizer"))
def test_every_quantizer_builds(quantizer):
    cfg = composed("train_vqgan", f"quantizer={quantizer}", "model.embedding_dim=8", "model.n_hiddens=8", *NEEDED)
    with torch.device("meta"):
        vqgan = instantiate(cfg.module.vqgan, _convert_="all")
    assert isinstance(vqgan, VQGAN)


@pytest.mark.parametrize("diffusion", choices("diffusion"))
def test_every_diffusion_builds_and_ends_in_clean_data(diffusion):
    built = instantiate(composed("train_ddpm", f"diffusion={diffusion}", *NEEDED).diffusion, _convert_="all")
    alpha, sigma = built.levels(built.times(10))
    assert float(alpha[-1]) == pytest.approx(1, abs=1e-6)
    assert float(sigma[-1]) == pytest.approx(0, abs=1e-3)


def hidden(config):
    """Arguments of our own parts of a config that are left to a default, as (part, argument)."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from hidden(value)
    target = config.get("_target_", "torch.") if isinstance(config, dict) else "torch."
    if not target.startswith(("torch.", "pytorch_lightning.")):
        module, _, name = target.rpartition(".")
        parameters = signature(getattr(import_module(module), name)).parameters.values()
        yield from ((name, p.name) for p in parameters if p.default is not p.empty and p.name not in config)


@pytest.mark.parametrize(("name", "group", "choice"), COMBINATIONS, ids=["-".join(c) for c in COMBINATIONS])
def test_every_default_that_shapes_a_result_stands_in_the_config(name, group, choice):
    weights = ["xray_encoder.weights=folder"] if choice == "medclip" else []
    cfg = OmegaConf.to_container(composed(name, f"{group}={choice}", *needed(name), *weights), resolve=True)
    of_unet = {("UNet3D", name) for name in ("checkpointing", "channels_last", "token_axes")}
    by_others = of_unet | {("VQGANModule", "meta")}
    assert set(hidden(cfg)) - by_others <= set()


def millions(*modules):
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


def test_the_vqgan_has_the_guides_size():
    cfg = composed("train_vqgan", *NEEDED)
    with torch.device("meta"):
        vqgan = instantiate(cfg.module.vqgan, _convert_="all")
        discriminators = instantiate(cfg.module.discriminators, _convert_="all")
    assert millions(vqgan) == pytest.approx(22.2, rel=0.03)
    assert millions(*discriminators) == pytest.approx(13.8, rel=0.01)
    assert (vqgan.embedding_dim, vqgan.quantizer.books.codes.shape[-2]) == (64, 16384)


@pytest.mark.parametrize("model", ["ddpm_4gpu_patches", "ddpm_4gpu_patches_8ch"])
def test_the_unet_has_the_guides_size(model):
    cfg = composed("train_ddpm", f"model={model}", *NEEDED)
    with torch.device("meta"):
        denoiser = instantiate(cfg.module.denoiser, pooled_dim=PRETRAINED_DIM, token_dim=PRETRAINED_DIM)
    assert millions(denoiser) == pytest.approx(143, rel=0.015)


def test_the_recommended_presets_belong_together():
    stage1 = composed("train_vqgan", "model=vqgan_patches_4gpu_8ch", *NEEDED)
    stage2 = composed("train_ddpm", "model=ddpm_4gpu_patches_8ch", *NEEDED)
    assert stage1.model.embedding_dim == stage2.model.diffusion_num_channels == 8
    assert stage2.model.vqgan_ckpt == f"{stage1.checkpoint_dir}/last.ckpt"
    assert stage2.checkpoint_dir == "checkpoints/ddpm_4gpu_patches_8ch"
    with torch.device("meta"):
        vqgan = instantiate(stage1.module.vqgan, _convert_="all")
    assert isinstance(vqgan.quantizer, KLBottleneck)
    assert stage1.module.optimizer._target_.endswith("Muon")


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_a_recommended_preset_changes_little_of_the_guides(stage):
    names = {"vqgan": "vqgan_patches_4gpu", "ddpm": "ddpm_4gpu_patches"}
    guide, recommended = (
        OmegaConf.to_container(composed(f"train_{stage}", f"model={names[stage]}{end}", *NEEDED).model, resolve=True)
        for end in ("", "_8ch")
    )
    changed = {key for key in guide | recommended if guide.get(key) != recommended.get(key)}
    losses = {"gan_weight", "feature_weight"}
    steps = {"train_lr", "adam_betas", "lr_final"}
    few = {
        "vqgan": {"name", "embedding_dim", "latent_noise"} | losses | steps,
        "ddpm": {"name", "diffusion_num_channels", "vqgan_ckpt"},
    }
    assert changed == few[stage]


def test_the_preset_of_whole_latents_trains_the_network_of_the_patches():
    patches, whole = (
        OmegaConf.to_container(composed("train_ddpm", f"model=ddpm_4gpu_{name}", *NEEDED).model, resolve=True)
        for name in ("patches", "whole")
    )
    how = {"name", "use_patches", "patches_per_volume", "val_patches_per_volume", "checkpointing"}
    much = {"batch_size", "effective_batch", "max_epochs", "warmup_steps"}
    assert {key for key in patches | whole if patches.get(key) != whole.get(key)} == how | much


def test_a_quantiser_on_the_command_line_wins_over_the_presets():
    cfg = composed("train_vqgan", "model=vqgan_patches_4gpu_8ch", "quantizer=fsq", *NEEDED)
    assert cfg.quantizer._target_.endswith("FiniteScalarQuantizer")
    assert len(cfg.quantizer.levels) == 8


def test_an_optimizer_on_the_command_line_wins_over_the_presets():
    for words in (
        ["optimizer=adamw", "model=vqgan_patches_4gpu_8ch"],
        ["model=vqgan_patches_4gpu_8ch", "optimizer=adamw"],
    ):
        assert composed("train_vqgan", *words, *NEEDED).optimizer._target_ == "torch.optim.AdamW"


def write_codec(path, cfg):
    """A stage-1 checkpoint of the guide's VQ-GAN with random weights."""
    plain = OmegaConf.to_container(cfg.module.vqgan, resolve=True)
    vqgan = instantiate(cfg.module.vqgan, _convert_="all")
    meta = {"format": 1, "stage": "vqgan", "parts": describe({"vqgan": plain}), "hu_window": [-1000, 1000]}
    state = {f"vqgan.{name}": tensor for name, tensor in vqgan.state_dict().items()}
    torch.save({"xray2ctpa": meta, "state_dict": state}, path)
    return tensor_hash(vqgan)


@pytest.mark.slow
def test_stage_2_takes_a_step_at_full_width(tiny_data, elsewhere):
    written = write_codec("vqgan.ckpt", composed("train_vqgan", *NEEDED))
    small = ["model.patch_size=[32,32,32]", "model.batch_size=1", "model.num_workers=0", "model.patches_per_volume=1"]
    made = built_ddpm(tiny_data.data, "xray_encoder=tiny_random", "model.vqgan_ckpt=vqgan.ckpt", *small)
    module = made.module
    assert module.meta["codec"]["hash"] == written
    assert millions(module.denoiser) > 135
    module.latent_scale.measure([module._raw_latents(made.batch)])
    optimizer = module.make_optimizer(module.parameters())
    before = module.denoiser.unet.head[-1].weight.detach().clone()
    module.loss(made.batch).backward()
    optimizer.step()
    assert (module.denoiser.unet.head[-1].weight != before).any()
    assert torch.isfinite(module.denoiser.unet.head[-1].weight).all()
    assert peak_bytes() < 6e9


@pytest.mark.slow
def test_stage_1_takes_a_step_at_full_width(tiny_data, elsewhere):
    import train_vqgan_patches_4gpu

    small = [
        "model.patch_size=[32,32,32]",
        "model.batch_size=1",
        "model.num_workers=0",
        "model.patches_per_volume=1",
        "model.max_steps=1",
        "model.disc_start=0",
        "model.n_codes=512",  # the codebook is not what the width is about
        "model.checkpoint_every_n_steps=1",
    ]
    run(train_vqgan_patches_4gpu, tiny_data.data, *small)
    stored = torch.load(
        Path("outputs/vqgan_patches_4gpu/checkpoints/last.ckpt"), weights_only=True, map_location="cpu", mmap=True
    )
    assert stored["global_step"] == 1
    assert all(torch.isfinite(v).all() for v in stored["state_dict"].values() if v.is_floating_point())
    assert len(stored["optimizer_states"][0]["state"]) == sum(
        len(group["params"]) for group in stored["optimizer_states"][0]["param_groups"]
    )
    assert peak_bytes() < 6e9

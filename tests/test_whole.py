"""The preset for whole latents: from a patch model to a CT that is drawn whole, with volumes of different shapes."""

import json
from pathlib import Path

import torch

import encode_latents
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from dataset.scans.volume_io import read_ct
from ddpm.unet3d import Stage
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import built_ddpm, encode, load, run

PRESET = "model=ddpm_4gpu_whole"
CKPT = "checkpoints/ddpm_4gpu_whole/last.ckpt"
OWN = ("patch_size", "patches_per_volume", "val_patches_per_volume", "effective_batch")  # of the preset, not the tests


def test_whole_latents_are_trained_from_a_patch_model_and_drawn_whole(workshop, elsewhere, refused):
    encode(workshop, "latents")
    cache = "dataset.latents_dir=latents"
    tiny = [s for s in workshop.ddpm if s.partition("=")[0].removeprefix("model.") not in OWN]
    settings = [PRESET, *tiny, cache, f"init_from={workshop.ddpm_ckpt}"]
    assert "with the same model settings" in refused(train_ddpm_patches_4gpu, *settings)  # the smaller volumes' latents
    run(encode_latents, PRESET, *(s for s in workshop.encode if s.partition("=")[0] != "model.patch_size"), cache)

    made = built_ddpm(*settings)
    items = [*made.data.train, *made.data.val]
    shapes = torch.stack([item["volume_shape"] for item in items])
    assert len(items) == len(shapes.unique(dim=0)) == 5  # one item a volume, all of different shapes
    largest = [-(-n // 4) * 4 for n in shapes.amax(0).tolist()]
    assert {item["latent"].shape[1:] for item in items} == {tuple(n // 4 for n in largest)}
    assert all(part.checkpointing for part in made.module.modules() if isinstance(part, Stage))
    average = next(v for k, v in load(workshop.ddpm_ckpt)["callbacks"].items() if k.startswith("WeightAverage"))
    weights = dict(made.module.named_parameters())
    assert all(torch.equal(weights[name], tensor) for name, tensor in average["average"].items())

    run(train_ddpm_patches_4gpu, *settings)
    assert load(CKPT)["global_step"] == 1  # four volumes
    assert list(CTSampler(CKPT).description.patch_size) == largest
    run(sample_ddpm_patches, f"xray={workshop.xray}", "output=ct.nii.gz", f"ckpt={CKPT}", "steps=2", "device=cpu")
    facts = json.loads(Path("ct.json").read_text())
    assert facts["plan"]["mode"] == "whole"
    assert list(read_ct("ct.nii.gz").hu.shape) == facts["shape"] == list(CTSampler(CKPT).description.shape)
    run(train_ddpm_patches_4gpu, *workshop.ddpm, cache, "dataset.latents=always", "check=true")  # for patches as well

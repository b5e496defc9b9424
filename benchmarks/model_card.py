"""Sizes and costs of a preset's networks: `python -m benchmarks.model_card model=ddpm_4gpu_patches`

Takes the overrides of train_ddpm_patches_4gpu.py. Stage 1 is the preset whose checkpoint `model.vqgan_ckpt` names;
`vqgan=NAME` picks another. The last line is one JSON object: parameters, GFLOP of one forward pass of one patch (10^9
operations, a multiplication with its addition counted as two), MB of a stage-2 checkpoint. Nothing is loaded or
computed: the networks have shapes without storage.
"""

from typing import Any

from benchmarks.command import benchmark
from benchmarks.measure import parameters
from benchmarks.networks import META, NO_DATA, codec_figures, denoiser_figures, on_paper, partner
from ddpm.perceptual_resnet import ResNetDistance
from pipeline.cli import composed
from vq_gan_3d.perceptual import VGG16Distance

STORED_COPIES = 4  # of the trained weights: themselves, Adam's two moments, their average
FLOAT_BYTES = 4


@benchmark("train_ddpm")
def main(overrides: list[str], vqgan: str = "") -> dict[str, Any]:
    cfg = composed("train_ddpm", [NO_DATA, *overrides])
    stage1 = partner(cfg, [f"model.patch_size={list(cfg.model.patch_size)}"], vqgan)
    with META:
        resnet, vgg = ResNetDistance("random"), VGG16Distance("random")
    figures = denoiser_figures(cfg) | codec_figures(stage1)
    figures |= {
        "vqgan_discriminator_params": parameters(*on_paper(stage1.module.discriminators)),
        "perceptual_params": parameters(resnet),
        "vqgan_perceptual_params": parameters(vgg),
        "checkpoint_mb": STORED_COPIES * FLOAT_BYTES * figures["unet3d_params"] / 1e6,
    }
    for name, value in figures.items():
        print(f"{name:28}{value:>20,.{0 if isinstance(value, int) else 1}f}")
    return {"model": cfg.model.name, "vqgan": stage1.model.name} | {k: round(v, 1) for k, v in figures.items()}


if __name__ == "__main__":
    main()

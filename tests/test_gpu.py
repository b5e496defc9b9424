"""What a CPU cannot show: half precision as GPUs have it, and that both devices draw the same."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.scans.volume_io import read_ct
from ddpm.plan import Grid, SamplingPlan
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import DDPM_CKPT, VQGAN_CKPT, built_ddpm, load, run

pytestmark = pytest.mark.gpu

STAGES = {
    "vqgan": (train_vqgan_patches_4gpu, VQGAN_CKPT),
    "ddpm": (train_ddpm_patches_4gpu, DDPM_CKPT),
}
GRID = Grid((40, 24, 28), (9.0, 9.0, 9.0))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_both_stages_train_on_a_gpu(stage, precision, workshop, elsewhere):
    script, path = STAGES[stage]
    run(script, *getattr(workshop, stage), f"model.precision={precision}", "trainer.accelerator=gpu")
    stored = load(path)
    assert stored["global_step"] == 4
    weights = {name: tensor for name, tensor in stored["state_dict"].items() if tensor.is_floating_point()}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    start = load(getattr(workshop, f"{stage}_ckpt"))["state_dict"]
    assert weights.keys() <= start.keys()
    assert torch.get_float32_matmul_precision() == "high"


def test_half_precision_gives_nearly_the_same_loss(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "trainer.accelerator=gpu")
    module = made.module.cuda()
    for network in module._frozen[:2]:
        network.cuda()
    batch = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in made.batch.items()}
    module.latent_scale.measure([module._raw_latents(batch).cpu()])
    for parameter in module.denoiser.parameters():  # an untrained network predicts 0 in any precision
        torch.nn.init.normal_(parameter, std=0.1)
    full = module.loss(batch).item()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype):
            assert module.loss(batch).item() == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize("mode", ["whole", "fused"])
def test_a_gpu_draws_what_a_cpu_draws(mode, workshop, exact):
    drawn = []
    for device in ("cpu", "cuda"):
        sampler = CTSampler(workshop.ddpm_ckpt, device=device)
        xray = sampler.load_xray(workshop.xray)
        drawn.append(sampler.generator.latent(xray, GRID, SamplingPlan(steps=4, mode=mode, bf16=False), 0).cpu())
    assert float((drawn[0] - drawn[1]).abs().max()) < 2e-3 * float(drawn[0].std())


def test_one_process_draws_many_cts(workshop):
    """Graphs of earlier drawings that are thrown away while the next are recorded would break them."""
    sampler = CTSampler(workshop.ddpm_ckpt, device="cuda")
    xray, before = sampler.load_xray(workshop.xray), gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        drawn = [sampler.generator.latent(xray, GRID, SamplingPlan(2, mode="fused"), 0) for _ in range(6)]
    finally:
        gc.set_threshold(*before)
    assert all(torch.equal(latent, drawn[0]) for latent in drawn)


def test_the_call_draws_the_commands_ct(workshop, elsewhere):
    run(sample_ddpm_patches, f"xray={workshop.xray}", "output=a.nii.gz", f"ckpt={workshop.ddpm_ckpt}", "steps=4")
    hu, _ = sample_ddpm_patches.sample(workshop.xray, workshop.ddpm_ckpt, "b.nii.gz", steps=4)
    command, call = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert (call["plan"], call["run"]["device"]) == (command["plan"], command["run"]["device"])
    assert call["plan"]["bf16"] is torch.cuda.is_bf16_supported(including_emulation=False)
    assert np.abs(read_ct("a.nii.gz").hu - hu).max() <= 1  # as many windows at once as memory holds: they may round


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("added_up", [1, 2])
def test_graphs_train_as_single_kernels_do(added_up, checkpointing, workshop, elsewhere):
    more = [
        "model.precision=32-true",
        "trainer.accelerator=gpu",
        "resume=never",
        f"model.checkpointing={checkpointing}",
    ]
    batch = built_ddpm(*workshop.ddpm).data.batch_size
    weights = []
    for graph in ("false", "true"):
        run(
            train_ddpm_patches_4gpu,
            *workshop.ddpm,
            *more,
            f"model.graph={graph}",
            f"model.effective_batch={added_up * batch}",
        )
        weights.append(load(DDPM_CKPT)["state_dict"])
    start = built_ddpm(*workshop.ddpm).module.state_dict()
    moved = sum(float((w - start[n].cpu()).square().sum()) for n, w in weights[0].items() if n.startswith("denoiser"))
    apart = sum(float((w - weights[1][n]).square().sum()) for n, w in weights[0].items() if n.startswith("denoiser"))
    assert apart < 1e-3 * moved


@pytest.mark.slow
def test_compiled_blocks_train_as_the_others_do(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.compile=true", "trainer.accelerator=gpu")
    compiled = load(DDPM_CKPT)["state_dict"]
    plain = load(workshop.ddpm_ckpt)["state_dict"]
    assert compiled.keys() == plain.keys()
    assert all(torch.isfinite(tensor).all() for tensor in compiled.values())


def test_tensorboard_tells_the_gpus_memory(workshop, elsewhere):
    from tests.test_throughput import logged

    run(train_ddpm_patches_4gpu, *workshop.ddpm, "trainer.accelerator=gpu")
    peak = logged("outputs/ddpm_4gpu_patches/tensorboard")["speed/gpu_peak_gb"]
    assert 0 < peak[-1].value < 8

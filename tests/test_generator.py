"""Plans, guidance, memory and teams of processes: what changes the latent that is drawn, and what must not."""

from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from common.collectives import Team
from common.errors import UserError
from common.patches import positions_mm
from ddpm import gpu_memory
from ddpm.diffusion import CosineDDPM, RectifiedFlow
from ddpm.generator import VolumeGenerator
from ddpm.latent_scale import LatentScale
from ddpm.plan import Grid, SamplingPlan, XrayInput

WINDOW, STRIDE = (4, 4, 4), (3, 2, 4)
GRID = Grid((41, 22, 34), (2.0, 1.0, 1.5))  # a latent of (11, 6, 9)
XRAY = XrayInput(torch.zeros(1, 8, 8), torch.zeros(3, 8, 8), torch.eye(3, 4))
PLAN = SamplingPlan(4, mode="fused")


class Convolving(nn.Module):
    """A denoiser that looks at its whole window, so that windows disagree; counts the windows of each call."""

    latent_channels, knows_no_xray = 2, True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 2, 3, padding=1)
        self.calls = []

    def encode_condition(self, pooled, tokens, grid, xray, camera, drop):
        return drop.float()

    def forward(self, x, t, condition, positions, spacing):
        self.calls.append(len(x))
        seen = torch.tanh(self.conv(x) + 0.01 * positions[:, :2]) * (1 - t.view(-1, 1, 1, 1, 1))
        return seen + 0.5 * condition.view(-1, 1, 1, 1, 1)


class Features(nn.Module):
    grid = (1, 1)

    def forward(self, cxr):
        return type("Seen", (), {"pooled": cxr.mean((2, 3)), "tokens": cxr.flatten(2).mean(2)[:, None]})()


def make_generator(diffusion=None):
    scale = LatentScale(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    return VolumeGenerator(Convolving(), diffusion or RectifiedFlow(), scale, nn.Identity(), Features(), WINDOW, STRIDE)


@pytest.fixture
def generator():
    return make_generator()


def draw(generator, plan, seed=5, team=None):
    return generator.latent(XRAY, GRID, plan, seed, team=team)


def test_guidance_of_one_is_the_conditional_bit_for_bit(generator):
    plain = draw(generator, PLAN)
    for interval in ((0.0, 1.0), (0.2, 0.4)):
        assert torch.equal(draw(generator, replace(PLAN, guidance=1.0, guidance_interval=interval)), plain)


@pytest.mark.parametrize("mode", ["whole", "fused", "independent"])
def test_guidance_in_one_pass_equals_guidance_in_two(generator, mode):
    two, one = (draw(generator, SamplingPlan(4, mode=mode, guidance=3.0, window_batch=n)) for n in (1, 6))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    assert (one - draw(generator, SamplingPlan(4, mode=mode))).abs().max() > 0.1


def test_a_dropped_xray_is_drawn_as_the_null_condition(generator):
    unseen = generator.latent(replace(XRAY, dropped=True), GRID, replace(PLAN, guidance=3.0), 5)
    torch.testing.assert_close(unseen, draw(generator, replace(PLAN, guidance=0.0)), rtol=0, atol=1e-5)


def test_guidance_fills_a_batch_with_both_passes(generator):
    draw(generator, replace(PLAN, steps=1, guidance=3.0, window_batch=6))
    windows = generator.windows(GRID)
    assert max(generator.denoiser.calls) == 6
    assert sum(generator.denoiser.calls) == 2 * windows
    assert len(generator.denoiser.calls) == generator.evaluations(
        GRID, replace(PLAN, steps=1, guidance=3.0, window_batch=6)
    )


def test_outside_its_interval_guidance_rests(generator):
    plan = SamplingPlan(4, mode="whole", guidance=3.0)  # at times 1, 3/4, 1/2, 1/4
    plain = draw(generator, SamplingPlan(4, mode="whole"))
    assert torch.equal(draw(generator, replace(plan, guidance_interval=(0.8, 0.9))), plain)
    generator.denoiser.calls.clear()
    middle = draw(generator, replace(plan, guidance_interval=(0.4, 0.8)))
    assert len(generator.denoiser.calls) == 4 + 2
    assert not torch.equal(middle, plain)
    assert not torch.equal(middle, draw(generator, plan))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"guidance_interval": (0.8, 0.2)}, r"low <= high.*0\.8"),
        ({"guidance_interval": (0.0, 2.0)}, "guidance_interval"),
        ({"window_batch": 0}, "window_batch.*0"),
        ({"window_batch": "many"}, "auto.*'many'"),
        ({"latent_device": "tpu"}, "latent_device.*'tpu'"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(PLAN, **wrong)


def test_auto_is_settled_before_counting(generator):
    plan = SamplingPlan(4)
    for unsettled in (plan, replace(plan, mode="fused")):
        with pytest.raises(ValueError, match="settle"):
            generator.evaluations(GRID, unsettled)
    settled = generator.settle(plan, XRAY, GRID)
    assert settled == SamplingPlan(4, mode="fused", window_batch=1, latent_device="cpu", bf16=False)
    assert generator.settle(replace(plan, bf16=True), XRAY, GRID).bf16
    assert generator.settle(settled, XRAY, GRID) == settled
    assert generator.settle(plan, XRAY, Grid((16, 10, 12), (1.0, 1.0, 1.0))).mode == "whole"
    with pytest.raises(ValueError, match="device=cuda"):
        generator.settle(replace(plan, latent_device="cuda"), XRAY, GRID)


@pytest.mark.parametrize(("free", "expected"), [(10_000, 1), (100_000, 8), (10**9, gpu_memory.MOST_WINDOWS)])
def test_the_window_batch_follows_the_free_memory(monkeypatch, free, expected):
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda device: free)
    monkeypatch.setattr(gpu_memory, "peak_bytes", lambda run, device: 10_000)
    assert gpu_memory.windows_that_fit(lambda: None, 0, torch.device("cpu")) == expected


def test_latents_leave_a_small_gpu(monkeypatch):
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda device: 24 * 10**9)
    assert gpu_memory.latents_fit(4 * 64 * 151 * 128 * 128, torch.device("cpu"))  # 512×512×604 at 64 channels
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda device: 8 * 10**9)
    assert not gpu_memory.latents_fit(4 * 64 * 151 * 128 * 128, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("diffusion", [RectifiedFlow(), CosineDDPM(100)], ids=["flow", "ddpm"])
def test_a_gpu_draws_the_latent_of_a_cpu_wherever_it_lives(diffusion, exact):
    on_cpu = draw(make_generator(diffusion), PLAN)
    on_gpu = make_generator(diffusion).cuda()
    for home in ("cpu", "cuda", "auto"):
        drawn = draw(on_gpu, replace(PLAN, latent_device=home, window_batch="auto", bf16=False))
        torch.testing.assert_close(drawn.cpu(), on_cpu, rtol=0, atol=1e-3 * float(on_cpu.std()))


def _member(rank, folder, plan):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        latent = draw(make_generator(), plan, team=Team(rank, 2))
        torch.save(latent, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_draw_the_latent_of_one(generator, tmp_path):
    plan = replace(PLAN, sampler="ddpm", window_batch=5)
    torch.multiprocessing.spawn(_member, (str(tmp_path), plan), nprocs=2)
    alone = draw(generator, replace(plan, window_batch=1))
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared, alone, rtol=0, atol=1e-3 * float(alone.std()))
    assert not torch.equal(draw(generator, plan, seed=6), alone)


class Breaking(Convolving):
    """Its answers for windows that start above `after` (mm) break at times below 0.6."""

    def forward(self, x, t, condition, positions, spacing):
        seen = super().forward(x, t, condition, positions, spacing)
        seen[(positions[:, 0, 0, 0, 0] > self.after) & (t < 0.6), :, 0, 0, 0] = self.value
        return seen


def breaking(value=float("nan")):
    generator = make_generator()
    generator.denoiser = Breaking()
    generator.denoiser.value = value
    spacing, shape = (torch.tensor([values, values]) for values in (GRID.spacing, GRID.shape))
    planes = positions_mm(torch.tensor([[0, 0, 0], [12, 0, 0]]), spacing, shape, (1, 1, 1), 4)
    generator.denoiser.after = float(planes[:, 0].mean())
    return generator


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_stops_the_drawing_at_its_step(sampler, value):
    generator = breaking(value)
    with pytest.raises(
        UserError, match=r"step 3 of 4 \(time 0\.5\), in the window at latent voxel \(3, 0, 0\), in float32"
    ):
        draw(generator, replace(PLAN, sampler=sampler))


def test_windows_drawn_apart_are_watched_too():
    with pytest.raises(UserError, match=r"step 3 of 4.*voxel \(3, 0, 0\)"):
        draw(breaking(), SamplingPlan(4, mode="independent"))


def test_numbers_that_overflow_together_are_found():
    with pytest.raises(UserError, match="a lower guidance"):
        draw(make_generator(), replace(PLAN, guidance=1e39))
    with pytest.raises(UserError, match="guidance must be a finite number, got nan"):
        replace(PLAN, guidance=float("nan"))


def _breaking_member(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        draw(breaking(), PLAN, team=Team(rank, 2))
    except UserError as error:
        (Path(folder) / f"{rank}.txt").write_text(str(error))
    finally:
        distributed.destroy_process_group()


def test_all_processes_stop_at_the_step_and_name_the_window_that_one_saw(tmp_path):
    torch.multiprocessing.spawn(_breaking_member, (str(tmp_path),), nprocs=2)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "step 3 of 4" in first
    assert "voxel (3, 0, 0)" in first


def test_a_team_shares_windows_only(generator):
    with pytest.raises(ValueError, match=r"mode=fused only.*whole"):
        draw(generator, SamplingPlan(2, mode="whole"), team=Team(0, 2))


def test_members_see_every_window_once(generator):
    windows = torch.arange(3 * 7).view(7, 3)
    shares = torch.cat([Team(rank, 3).share(windows) for rank in range(3)])
    assert sorted(shares.tolist()) == windows.tolist()
    plan = replace(PLAN, window_batch=4)
    count = generator.windows(GRID)
    assert generator.evaluations(GRID, plan, Team(0, 2)) == 4 * ceil(ceil(count / 2) / 4)

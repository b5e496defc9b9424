"""At full size and on paper: steps keep to the GPU, wait for it only where we know of it, and hold what is written."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import memory_tally, paper_steps
from benchmarks.memory_tally import CT, TABLE, cases, tally
from benchmarks.networks import NO_DATA
from common.geometry import latent_shape
from ddpm.gpu_memory import LATENT_COPIES
from ddpm.layers import ResBlock
from ddpm.module import PatchDDPM
from pipeline.cli import composed
from pipeline.mistakes import SAVING_MEMORY

ROOT = Path(__file__).resolve().parents[1]
GUIDE = "ddpm_4gpu_patches"
STORED = json.loads(TABLE.read_text(encoding="utf-8"))
SEEN = json.loads((ROOT / "benchmarks/results/gpu/2026-11-27.json").read_text(encoding="utf-8"))
TOOK = next(run["figures"]["reserved_gb"] for run in SEEN["runs"] if "train_step" in run["command"])  # at batch 2
WITHIN = 0.05
# Where the host may wait for the GPU within a step, and why
ALLOWED = {
    "ddpm/finite.py:watched": "drawing, once a step: NaN stops there",
    "ddpm/finite.py:latent": "drawing, once",
    "common/patches.py:stitch_patches": "drawing, once, but not in fused windows",
    "ddpm/guided.py:at": "drawing with guidance, once a step: whether it acts at this time",
    "pipeline/sampling/slabs.py:arrived": "decoding, a tile goes to the host; the next is on its way by then",
    "benchmarks/paper_steps.py:encode": "encoding, a tile goes to the host",
    "benchmarks/paper_steps.py:_train": "fp16: the loss scaler looks whether gradients were finite",
}
QUICK = (
    "training, batch 2, bf16",
    "training, batch 2, fp16",
    "training, batch 8, bf16, checkpointing",
    "stage 1, bf16",
    "drawing, fused, 8 windows at once",
    "drawing, whole",
    "decoding, tiles of 32, fp16",
    "encoding, tiles of 32",
)
MADE = cases([f"model={GUIDE}"], (2, 8, 32))


def case(name):
    return pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])


def faults(found, stored):
    """What a case does that it should not."""
    wrong = [f"waits in {place}" for place in found["waits"] if place not in ALLOWED]
    if abs(found["peak_gb"] / stored["peak_gb"] - 1) > WITHIN:
        wrong.append(f"peak {found['peak_gb']} GB, stored {stored['peak_gb']}")
    return wrong


@pytest.mark.parametrize("name", [case(name) for name in MADE])
def test_a_step_of_the_guides_size_keeps_to_the_gpu_and_to_the_stored_memory(name):
    remedy = f"if it is meant: python -m benchmarks.memory_tally model={GUIDE} into={TABLE.relative_to(ROOT)}"
    assert faults(tally(MADE[name]), STORED[GUIDE][name]) == [], remedy


def test_no_wait_is_allowed_that_does_not_happen():
    seen = {place for of_preset in STORED.values() for figures in of_preset.values() for place in figures["waits"]}
    assert seen == set(ALLOWED)


def with_fault(monkeypatch, fault):
    original = PatchDDPM._noised

    def noised(self, *args):
        inputs, x0, noise = original(self, *args)
        return [fault(inputs[0]), *inputs[1:]], x0, noise

    monkeypatch.setattr(PatchDDPM, "_noised", noised)


SMALL = ["model.dim_mults=[1,2]", "model.num_res_blocks=1", "model.middle_blocks=1", "xray_encoder=tiny_random"]
STEP = next(iter(cases([f"model={GUIDE}", *SMALL], [8]).values()))


@pytest.fixture(scope="module")
def sound():
    """A step, small but for its batch, as it should be."""
    return tally(STEP)


def test_a_copy_to_the_host_in_the_step_is_found(monkeypatch, sound):
    with_fault(monkeypatch, lambda x: x.cpu().to(x.device))
    assert faults(tally(STEP), sound) == ["waits in tests/test_memory_tally.py:<lambda>"]


def test_a_tensor_made_on_the_wrong_device_is_found(monkeypatch):
    with_fault(monkeypatch, lambda x: x + torch.zeros(x.shape))
    with pytest.raises(RuntimeError, match=r"cpu.*cuda|cuda.*cpu"):
        tally(STEP)


def test_a_layer_that_doubles_its_activations_is_found(monkeypatch, sound):
    forward = ResBlock.forward

    def twice(self, x, embedding, *skip):
        return (forward(self, x, embedding, *skip) + forward(self, x, embedding, *skip)) / 2

    monkeypatch.setattr(ResBlock, "forward", twice)
    (fault,) = faults(tally(STEP), sound)
    assert "peak" in fault


def test_all_presets_are_stored():
    presets = {path.stem for path in (ROOT / "config/model").glob("ddpm*.yaml")}
    assert set(STORED) == presets
    assert list(STORED[GUIDE]) == list(MADE)
    assert all(set(table) <= set(MADE) for table in STORED.values())


def test_the_docs_show_the_stored_table():
    assert memory_tally.markdown(STORED) in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")


def peak(name):
    return STORED[GUIDE][name]["peak_gb"]


def figures_told():
    """By the message when memory runs out, and by the docs."""
    small, medium, large = (peak(f"training, batch {batch}, bf16") for batch in (2, 8, 32))
    whole, saved = peak("training, whole CT, bf16"), peak("training, whole CT, bf16, checkpointing")
    vqgan, checkpointed = peak("stage 1, bf16"), peak("training, batch 8, bf16, checkpointing")
    yield f"{small:.1f} GB at batch 2", ("train_ddpm", "training")
    yield f"Stage 1 takes {vqgan:.1f} GB of each GPU, stage 2 {TOOK:.1f} GB", ("README",)
    yield f"torch took {TOOK:.1f} GB of an H200 at batch 2; {small:.1f} GB, [counted on paper]", ("guide-numbers",)
    yield f"an H200 took {TOOK:.1f} GB at 2", ("training",)
    yield f"{medium:.1f} at 8 and {large:.1f} at 32", ("training",)
    yield f"{vqgan:.1f} GB at batch 2", ("train_vqgan", "training")
    yield f"{whole - saved:.1f} of the {whole:.1f} GB of a", ("train_ddpm", "training")
    yield f"{medium - checkpointed:.1f} of the {medium:.1f} GB", ("train_ddpm", "training")
    yield f"{(large - medium) / 24:.1f} GB per sample", ("train_ddpm", "training")
    yield f"| training, patches, batch 2 | 10 GB | {small:.1f} GB |", ("benchmarks",)
    yield f"| training, whole CT | 138 GB | {whole:.1f} GB; {saved:.1f} GB with checkpointing |", ("benchmarks",)


@pytest.mark.parametrize(("figure", "places"), list(figures_told()))
def test_messages_and_docs_tell_the_stored_figures(figure, places):
    for place in places:
        page = ROOT / (f"{place}.md" if place == "README" else f"docs/{place}.md")
        text = page.read_text(encoding="utf-8") if page.is_file() else SAVING_MEMORY[place]
        assert figure in " ".join(text.split()), place


def test_a_smaller_tile_frees_what_the_message_says():
    small, large = (STORED[GUIDE][f"decoding, tiles of {tile}, fp16"] for tile in (16, 32))
    share = (small["peak_gb"] - small["kept_gb"]) / (large["peak_gb"] - large["kept_gb"])
    assert "decode_tile=16 (half of what a tile of 32 takes)" in SAVING_MEMORY["sample_ddpm"]
    assert share == pytest.approx(0.5, abs=0.1)


def test_a_dry_run_adds_up_to_what_drawing_takes():
    """A dry run measures one call, and takes as many copies of the latent as are held at once."""
    cfg = composed("train_ddpm", [NO_DATA, f"model={GUIDE}", "model.precision=bf16-mixed"])
    one = tally(lambda gpu: paper_steps.sample(gpu, cfg, paper_steps.stage1_of(cfg), (128, 128, 128), mode="fused"))
    latent = 4 * 64 * math.prod(latent_shape(CT, (128, 128, 128))) / 1e9
    assert one["peak_gb"] + LATENT_COPIES * latent == pytest.approx(peak("drawing, fused, 1 window at once"), rel=0.1)

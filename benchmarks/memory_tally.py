"""What do training and drawing hold on a GPU? `python -m benchmarks.memory_tally model=ddpm_4gpu_patches batch=2,8,32`

Needs no GPU: each case runs at full size on one on paper (see `benchmarks.fake_gpu`), and what tensors hold is counted.
Further settings are those of train_ddpm_patches_4gpu.py, and with `vqgan.` before them those of stage 1, whose preset
is the one that `model.vqgan_ckpt` names. Options: `batch`, of stage 2's training; `parts`, any of train, whole, vqgan,
sample, codec; `into`, a JSON file whose table of the preset takes these cases.

The last line is one JSON object, for each case: `peak_gb`, what tensors held at most; `kept_gb`, what they hold before
and after; `operations` on tensors, about as many as kernels; `waits`, where the host waited for a number, how often.
Drawing counts what a CUDA graph keeps for itself. What the allocator cannot use, the workspaces of cuDNN and the CUDA
context (about 0.5 GB) come on top.
"""

import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from benchmarks import paper_steps
from benchmarks.command import benchmark
from benchmarks.fake_gpu import FakeGPU
from benchmarks.networks import NO_DATA
from common.atomic import replacing
from common.errors import UserError
from pipeline.cli import composed

CT = (604, 512, 512)  # the guide's volume, voxels
PARTS = ("train", "whole", "vqgan", "sample", "codec")
PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
EAGER = "model.graph=false"  # nothing can be recorded on paper; a graph holds what its kernels do
SWITCHES = {"checkpointing": "model.checkpointing=true", "contiguous": "model.channels_last=false"}
WHOLE = ["model.patch_size=[608,512,512]", "model.batch_size=1"]  # the guide's volume, padded to whole latents
DRAWINGS: Mapping[str, dict[str, Any]] = {
    "fused, 1 window at once": {"mode": "fused"},
    "fused, 8 windows at once": {"mode": "fused", "window_batch": 8},
    "fused, guided, 8 windows at once": {"mode": "fused", "window_batch": 8, "guidance": 2.0},
    "whole": {"mode": "whole"},
    "whole, guided": {"mode": "whole", "guidance": 2.0},
}
TABLE = Path(__file__).parent / "results" / "memory_tally.json"

Run = Callable[[FakeGPU], None]
log = logging.getLogger(__name__)


def tally(run: Run) -> dict[str, Any]:
    """The figures of a case."""
    with warnings.catch_warnings(), FakeGPU() as gpu:
        warnings.simplefilter("ignore")  # Lightning's, of a module without a Trainer
        run(gpu)
    return {
        "peak_gb": round(gpu.peak / 1e9, 3),
        "kept_gb": round(gpu.kept / 1e9, 3),
        "operations": gpu.operations,
        "waits": dict(gpu.waits),
    }


def cases(overrides: Sequence[str], batches: Sequence[int], parts: Sequence[str] = PARTS) -> dict[str, Run]:
    """What there is to count, by name."""
    for_stage2 = [o for o in overrides if not o.startswith("vqgan.")]
    for_stage1 = [o.removeprefix("vqgan.") for o in overrides if o.startswith("vqgan.")]

    def both(*settings: str, precision: str = "bf16") -> tuple[DictConfig, DictConfig]:
        wanted = f"model.precision={PRECISIONS[precision]}"
        cfg = composed("train_ddpm", [NO_DATA, EAGER, *for_stage2, wanted, *settings])
        return cfg, paper_steps.stage1_of(cfg, [*for_stage1, wanted])

    def training(settings: Sequence[str], precision: str, gpu: FakeGPU) -> None:
        paper_steps.train_ddpm(gpu, *both(*settings, precision=precision))

    def vqgan(precision: str, gpu: FakeGPU) -> None:
        paper_steps.train_vqgan(gpu, both(precision=precision)[1])

    def drawing(plan: dict[str, Any], gpu: FakeGPU) -> None:
        paper_steps.sample(gpu, *both(), CT, **plan)

    def decoding(tile: int, half: bool, gpu: FakeGPU) -> None:
        paper_steps.decode(gpu, both()[1], CT, tile, half)

    def encoding(tile: int, gpu: FakeGPU) -> None:
        paper_steps.encode(gpu, both()[1], CT, tile)

    def named() -> Iterator[tuple[str, str, Run]]:
        for batch in batches:
            size = [f"model.batch_size={batch}"]
            for precision in PRECISIONS:
                yield "train", f"training, batch {batch}, {precision}", partial(training, size, precision)
            for name, switch in SWITCHES.items():
                yield "train", f"training, batch {batch}, bf16, {name}", partial(training, [*size, switch], "bf16")
        kept = [*WHOLE, "model.checkpointing=false"]
        yield "whole", "training, whole CT, bf16", partial(training, kept, "bf16")
        checkpointed = [*WHOLE, SWITCHES["checkpointing"]]
        yield "whole", "training, whole CT, bf16, checkpointing", partial(training, checkpointed, "bf16")
        for precision in PRECISIONS:
            yield "vqgan", f"stage 1, {precision}", partial(vqgan, precision)
        for name, plan in DRAWINGS.items():
            yield "sample", f"drawing, {name}", partial(drawing, plan)
        for tile, half in itertools.product((16, 32, 64), (True, False)):
            yield "codec", f"decoding, tiles of {tile}, {'fp16' if half else 'fp32'}", partial(decoding, tile, half)
        yield "codec", "encoding, tiles of 32", partial(encoding, 32)

    return {name: run for part, name, run in named() if part in parts}


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for people; columns are presets."""
    names = dict.fromkeys(case for of_preset in table.values() for case in of_preset)
    rows = [["peak in GB", *(f"`{preset}`" for preset in table)], ["---"] * (1 + len(table))]
    rows += [[name, *(_cell(of_preset.get(name)) for of_preset in table.values())] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(figures: Mapping[str, Any] | None) -> str:
    return "" if figures is None else f"{figures['peak_gb']:.2f}"


@benchmark("train_ddpm")
def main(
    overrides: list[str], batch: tuple[int, ...] = (2, 8, 32), parts: tuple[str, ...] = PARTS, into: str = ""
) -> dict[str, Any]:
    if not set(parts) <= set(PARTS):
        raise UserError(f"parts takes any of {','.join(PARTS)}, got {','.join(parts)}")
    preset = composed("train_ddpm", [NO_DATA, *(o for o in overrides if not o.startswith("vqgan."))]).model.name
    found: dict[str, Any] = {}
    for name, run in cases(overrides, batch, parts).items():
        found[name] = tally(run)
        log.info("%-45s %6.2f GB", name, found[name]["peak_gb"])
    log.info("\n%s\n", markdown({preset: found}))
    if into:
        _store(Path(into), preset, found)
    return {preset: found}


def _store(path: Path, preset: str, found: Mapping[str, Any]) -> None:
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with replacing(path) as partial_file:
        merged = table | {preset: table.get(preset, {}) | found}
        partial_file.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

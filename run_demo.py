"""The whole way on synthetic patients: data, both trainings, sampling, evaluation. See run_demo.sh.

Every stage is the command that a user would run; a stage whose command, code and predecessors have not changed is
not run again while what it made is there.
"""

import hashlib
import json
import logging
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from common.atomic import write_text
from common.memory import PeakMemory
from pipeline.cli import script
from pipeline.settings import plain

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
ROOMS = ("common", "dataset", "ddpm", "evaluation", "medclip_cond", "pipeline", "vq_gan_3d")
CODE = ("*.py", *(f"{room}/**/*.py" for room in ROOMS), "config/**/*.yaml")


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        product: what it leaves behind, a file or a folder.
    """

    name: str
    script: str
    settings: Mapping[str, Any]
    product: Path

    @property
    def command(self) -> list[str]:
        return [self.script, *overrides(self.settings)]


def overrides(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as Hydra overrides: {"model": {"dim": 8}} → ["model.dim=8"]."""
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += overrides(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={quoted(value) if isinstance(value, str) else json.dumps(value)}")
    return found


def quoted(text: str) -> str:
    """As Hydra reads it back: a path may hold commas, brackets or an equals sign."""
    return text if re.fullmatch(r"[\w./:+-]+", text, re.ASCII) else '"' + text.replace('"', r"\"") + '"'


def stages(cfg: DictConfig) -> Iterator[Stage]:
    root = Path(cfg.dir)
    chosen: dict[str, Any] = plain(cfg)
    common = {"dataset": {"root": str(root / "data")}}
    vqgan_ckpt = root / "vqgan" / "checkpoints" / "last.ckpt"
    ddpm_ckpt = root / own(cfg, "ddpm") / "checkpoints" / "last.ckpt"
    folders: dict[str, dict[str, Any]] = {
        "phantom": {},
        "prepare": {},
        "vqgan": {"run_dir": str(root / "vqgan"), "checkpoint_dir": str(vqgan_ckpt.parent)},
        "latents": {"overwrite": True},
        "ddpm": {"run_dir": str(ddpm_ckpt.parents[1]), "checkpoint_dir": str(ddpm_ckpt.parent)},
        "evaluate": {"run_dir": str(root / own(cfg, "evaluation")), "ckpt": str(ddpm_ckpt)},
    }
    for name in ("latents", "ddpm"):
        chosen[name] = merged(chosen[name], {"model": {"vqgan_ckpt": str(vqgan_ckpt)}})
    for name in ("vqgan", "ddpm"):
        chosen[name] = merged(chosen[name], {"resume": "never"})  # another stage's result may have changed
    for name in ("phantom", "vqgan", "ddpm", "evaluate"):
        folders[name]["seed"] = cfg.seed
    scripts = {
        "phantom": ("make_phantom_data.py", root / "data"),
        "prepare": ("prepare_data.py", root / "data" / "store" / "manifest.jsonl"),
        "vqgan": ("train_vqgan_patches_4gpu.py", vqgan_ckpt),
        "latents": ("encode_latents.py", root / "data" / "store" / "latents"),
        "ddpm": ("train_ddpm_patches_4gpu.py", ddpm_ckpt),
        "evaluate": ("evaluate_ddpm_patches.py", root / own(cfg, "evaluation") / "metrics.json"),
    }
    for name, (file, product) in scripts.items():
        stage = own(cfg, name) if name in ("ddpm", "evaluate") else name
        yield Stage(stage, file, merged(merged(common, folders[name]), chosen[name]), product)


def own(cfg: DictConfig, name: str) -> str:
    """A folder or stage that a variant does not share with the demo itself."""
    return f"{name}_{cfg.variant}" if cfg.variant else name


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings; the second's values win."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def code_hash() -> str:
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(HERE.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run_all(every: Iterable[Stage], stamps: Path, memory: PeakMemory) -> None:
    """Run the stages that are not done, and all that come after one that was run: they work on what it made."""
    fingerprint, anew = code_hash(), False
    for stage in every:
        fingerprint = hashlib.sha256(f"{fingerprint} {stage.command}".encode()).hexdigest()
        anew = anew or not is_done(stage, stamps, fingerprint)
        if anew:
            run(stage, stamps, fingerprint, memory)
        else:
            log.info("%s: done before", stage.name)


def is_done(stage: Stage, stamps: Path, fingerprint: str) -> bool:
    """Whether a stage was run under this fingerprint, and its product is still there."""
    stamp = stamps / f"{stage.name}.json"
    return (
        stage.product.exists() and stamp.is_file() and json.loads(stamp.read_text()).get("fingerprint") == fingerprint
    )


def run(stage: Stage, stamps: Path, fingerprint: str, memory: PeakMemory) -> None:
    """Run a stage and note it."""
    stamp = stamps / f"{stage.name}.json"
    log.info("\n$ python %s", shlex.join(stage.command))
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *stage.command], cwd=HERE, stdout=sys.stderr)
    status = memory.watch(process)
    if status:
        sys.exit(status)
    seconds = round(time.monotonic() - started, 1)
    log.info("%s: %.0f s", stage.name, seconds)
    write_text(stamp, json.dumps({"fingerprint": fingerprint, "command": stage.command, "seconds": seconds}))


@script("demo")
def main(cfg: DictConfig) -> None:
    started, memory = time.monotonic(), PeakMemory()
    root = Path(cfg.dir).absolute()
    cfg.dir = str(root)
    run_all(stages(cfg), root / "stages", memory)
    evaluation = root / own(cfg, "evaluation")
    summary = json.loads((evaluation / "metrics.json").read_text())["summary"]
    log.info("\nreport:      %s", evaluation / "report.html")
    log.info("volumes:     %s", evaluation / "volumes")
    log.info("TensorBoard: tensorboard --logdir %s", root)
    result = summary | {
        "report": str(evaluation / "report.html"),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gb": round(memory.peak_gb, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

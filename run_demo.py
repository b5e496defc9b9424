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

from omegaconf import DictConfig, OmegaConf

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
    """The demo's commands, in their order."""
    data = {"dataset": {"root": f"{cfg.root}/data"}}
    for name, stage in cfg.stages.items():
        settings = plain(OmegaConf.merge(data, plain(stage.settings), plain(cfg[name])))
        yield Stage(stage.get("name", name), stage.script, settings, Path(stage.product))


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
    try:
        status = memory.watch(process)
    except KeyboardInterrupt:  # which the stage has seen too
        status = process.wait()
    if status:
        sys.exit(status)
    seconds = round(time.monotonic() - started, 1)
    log.info("%s: %.0f s", stage.name, seconds)
    write_text(stamp, json.dumps({"fingerprint": fingerprint, "command": stage.command, "seconds": seconds}))


@script("demo")
def main(cfg: DictConfig) -> None:
    started, memory = time.monotonic(), PeakMemory()
    run_all(stages(cfg), Path(cfg.root) / "stages", memory)
    evaluation = Path(cfg.evaluation)
    metrics = json.loads((evaluation / "metrics.json").read_text())
    log.info("\nreport:      %s", evaluation / "report.html")
    log.info("volumes:     %s", evaluation / "volumes")
    log.info("TensorBoard: tensorboard --logdir %s", cfg.root)
    result = metrics["summary"] | {
        "verdict": metrics["verdict"],
        "report": str(evaluation / "report.html"),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gb": round(memory.peak_gb, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

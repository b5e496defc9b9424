"""How long does the evaluation of a validation split take? `python -m benchmarks.evaluation_scale [cases=181]`

Makes `cases` small phantom pairs to evaluate and some to train on, trains both stages for one step, and evaluates on
the CPU with two processes, with the shipped settings but `steps`: once undisturbed, and with `kill=true` once more,
killed after a third of the cases and started again. The last line is one JSON object:

seconds, cpu_s: of the undisturbed evaluation, on the clock and of all its processes; cpu_s_per_case.
equal: whether the one that was killed wrote the same metrics.json, but for its folder.
seconds_killed: of its two starts together.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.command import benchmark
from benchmarks.measure import ROOT, stamp

TRAINED_ON = 8
SMALL = {  # settings of the commands that lead to a checkpoint
    "make_phantom_data.py": "dataset.phantom.shape_range=[[36,32,32],[44,40,40]]"
    " dataset.phantom.spacing_range=[[7,8,8],[8,9,9]]",
    "prepare_data.py": "",
    "train_vqgan_patches_4gpu.py": "model.n_hiddens=8 model.embedding_dim=4 model.n_codes=64 model.disc_channels=4",
    "train_ddpm_patches_4gpu.py": "xray_encoder=tiny_random model.diffusion_num_channels=4 model.dim=8"
    " model.dim_mults=[1,2] model.num_res_blocks=1 model.middle_blocks=1 model.lifted_channels=4",
}
ONE_STEP = "model.patch_size=[32,32,32] model.patches_per_volume=1 model.val_patches_per_volume=1 model.max_steps=1"
QUICK = f"{ONE_STEP} model.num_workers=0 model.effective_batch=null model.val_every_n_epochs=1000"


def call(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a command in a folder, on one core; what it says goes to stderr."""
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=os.environ | alone, stdout=sys.stderr)


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"status {process.returncode}: {process.args!r}")


def make_model(folder: Path, cases: int) -> None:
    """Data and checkpoints in the folder, at the guide's paths."""
    train = (TRAINED_ON + 0.5) / (cases + TRAINED_ON)
    data = ["dataset.root=data", "dataset.prepare_workers=0", f"dataset.split={{train: {train}, val: {1 - train}}}"]
    for script, settings in SMALL.items():
        own = QUICK.split() if script.startswith("train") else []
        count = [f"dataset.phantom.num_cases={cases + TRAINED_ON}"] if script.startswith("make") else []
        finish(call(folder, str(ROOT / script), *(data[:1] if count else data), *settings.split(), *own, *count))


def evaluation(folder: Path, run_dir: str, cases: int, steps: int) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    settings = ["dataset.root=data", f"num_cases={cases}", f"steps={steps}", f"run_dir={run_dir}", "device=cpu"]
    return call(folder, *launcher, str(ROOT / "evaluate_ddpm_patches.py"), *settings)


def kill_after(folder: Path, process: subprocess.Popen[bytes], cases: int) -> None:
    """End an evaluation and all its processes, without a word, when so many cases are done."""
    while process.poll() is None and len(list((folder / "unfinished").glob("*.json"))) < cases:
        time.sleep(0.1)
    whole = psutil.Process(process.pid)
    for one in (*whole.children(recursive=True), whole):
        one.kill()
    process.wait()


def metrics(folder: Path) -> Any:
    found = json.loads((folder / "metrics.json").read_text())
    del found["settings"]["run_dir"]
    return found


def cpu_s() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@benchmark()
def main(cases: int = 181, steps: int = 10, kill: bool = True) -> dict[str, Any]:
    with TemporaryDirectory(prefix="benchmark_") as name:
        folder = Path(name)
        make_model(folder, cases)
        began, used = time.monotonic(), cpu_s()
        finish(evaluation(folder, "whole", cases, steps))
        found: dict[str, Any] = {"seconds": time.monotonic() - began, "cpu_s": cpu_s() - used}
        found["cpu_s_per_case"] = found["cpu_s"] / cases
        if kill:
            began = time.monotonic()
            kill_after(folder / "killed", evaluation(folder, "killed", cases, steps), cases // 3)
            finish(evaluation(folder, "killed", cases, steps))
            found["seconds_killed"] = time.monotonic() - began
            found["equal"] = metrics(folder / "killed") == metrics(folder / "whole")
    return {"cases": cases, "steps": steps} | found | stamp()


if __name__ == "__main__":
    main()

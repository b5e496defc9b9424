"""Gathers what benchmarks/gpu.sh measured into one file, summary.json of a results folder.

`python -m benchmarks.gpu_results FOLDER NAME STATUS SECONDS COMMAND` adds a step, whose output is FOLDER/NAME.log;
`python -m benchmarks.gpu_results FOLDER` adds GPU and versions, and prints what stands beside the goals.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUMMARY = "summary.json"
GOALS = (  # step, key, whether more is better, goal: of issue and README, on one H200
    ("train", "it_per_s", True, 20),
    ("train", "peak_gb", False, 8),
    ("train", "ratio_cached_over_onthefly", True, 2),
    ("train", "ratio_perceptual", True, 0.7),
    ("monai", "ratio_time_monai_over_ours", True, 1.2),
    ("monai", "ratio_memory_monai_over_ours", True, 1.2),
)
BEST_GOALS = (("samples_per_s", 120), ("mfu", 0.4))  # of any batch size


def read(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    return json.loads(path.read_text()) if path.is_file() else {"steps": {}}


def last_object(log: Path) -> Any:
    """The JSON object on a log's last line, or None."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return None


def add_step(folder: Path, name: str, status: int, seconds: int, command: str) -> None:
    summary = read(folder)
    result = last_object(folder / f"{name}.log")
    summary["steps"][name] = {"command": command, "status": status, "seconds": seconds, "result": result}
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")


def finish(folder: Path) -> dict[str, Any]:
    """Add date, GPU, driver and versions."""
    import torch

    from pipeline.checkpoints import checkpoint

    summary = read(folder)
    summary["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    summary["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    summary["driver"] = _driver()
    summary["versions"] = checkpoint.versions() | {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def runs(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every training of stage 2 that was measured, variants among them."""
    found: list[Mapping[str, Any]] = []
    for step in summary["steps"].values():
        result = step["result"] or {}
        if result.get("stage") == "ddpm":
            found += [result, *result.get("variants", {}).values()]
    return found


def table(summary: Mapping[str, Any]) -> str:
    """Each step's status, then each goal and what was reached, if there was a GPU."""
    lines = [f"{name:24} status {s['status']:4}  {s['seconds']:4} s" for name, s in summary["steps"].items()]
    if summary["gpu"] is None:
        return "\n".join([*lines, "no GPU: the figures mean nothing beside the goals"])
    for name, key, more, goal in GOALS:
        value = (summary["steps"].get(name, {}).get("result") or {}).get(key)
        lines.append(_against(f"{name}.{key}", value, more, goal))
    for key, goal in BEST_GOALS:
        values = [run[key] for run in runs(summary) if run.get(key) is not None]
        lines.append(_against(f"best {key}", max(values, default=None), True, goal))
    return "\n".join(lines)


def _against(name: str, value: float | None, more: bool, goal: float) -> str:
    if value is None:
        return f"{name:36} not measured      goal {'>=' if more else '<='} {goal}"
    reached = value >= goal if more else value <= goal
    return f"{name:36} {value:<12.4g} {'yes' if reached else 'NO ':4} goal {'>=' if more else '<='} {goal}"


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except FileNotFoundError:
        return None


def main() -> None:
    folder, *step = sys.argv[1:]
    if step:
        name, status, seconds, command = step
        add_step(Path(folder), name, int(status), int(seconds), command)
    else:
        summary = finish(Path(folder))
        print(table(summary))
        print(json.dumps({"results": folder, "gpu": summary["gpu"], "steps": len(summary["steps"])}))


if __name__ == "__main__":
    main()

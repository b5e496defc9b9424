"""Gathers what benchmarks/gpu.sh measured into one file, summary.json of a results folder.

`python -m benchmarks.gpu_results FOLDER NAME STATUS SECONDS COMMAND` adds a step, whose output is FOLDER/NAME.log;
`python -m benchmarks.gpu_results FOLDER` adds GPU and versions, and prints what stands beside the goals.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

GOALS = (  # step, key, whether more is better, goal: of issue and README, on one H200
    ("train", "it_per_s", True, 20),
    ("train", "peak_gb", False, 8),
    ("train", "ratio_cached_over_onthefly", True, 2),
    ("train", "ratio_perceptual", True, 0.7),
    ("monai", "ratio_time_monai_over_ours", True, 1.2),
    ("monai", "ratio_memory_monai_over_ours", True, 1.2),
)
BEST_GOALS = (("samples_per_s", 120), ("mfu", 0.4))  # of any batch size


def last_object(log: Path) -> Any:
    """The JSON object on a log's last line, or None."""
    with suppress(OSError, IndexError, ValueError):
        return json.loads(log.read_text(errors="replace").splitlines()[-1])


def circumstances() -> dict[str, Any]:
    """Date, GPU, driver and versions."""
    import torch  # here, since adding a step needs none of it

    from benchmarks.measure import stamp

    driver = None
    with suppress(FileNotFoundError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None
    about = stamp() | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "driver": driver}
    about["versions"] |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return about


def runs(steps: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every training of stage 2 that was measured, variants among them."""
    for step in steps.values():
        result = step["result"] or {}
        if result.get("stage") == "ddpm":
            yield from (result, *result.get("variants", {}).values())


def table(summary: Mapping[str, Any]) -> str:
    """Each step's status, then each goal and what was reached, if there was a GPU."""
    steps = summary["steps"]
    lines = [f"{name:24} status {s['status']:4}  {s['seconds']:4} s" for name, s in steps.items()]
    if summary["gpu"] is None:
        return "\n".join([*lines, "no GPU: the figures mean nothing beside the goals"])
    for name, key, more, goal in GOALS:
        lines.append(_against(f"{name}.{key}", (steps.get(name, {}).get("result") or {}).get(key), more, goal))
    for key, goal in BEST_GOALS:
        values = [run[key] for run in runs(steps) if run.get(key) is not None]
        lines.append(_against(f"best {key}", max(values, default=None), True, goal))
    return "\n".join(lines)


def _against(name: str, value: float | None, more: bool, goal: float) -> str:
    goal_text = f"goal {'>=' if more else '<='} {goal}"
    if value is None:
        return f"{name:36} not measured      {goal_text}"
    reached = value >= goal if more else value <= goal
    return f"{name:36} {value:<12.4g} {'yes' if reached else 'NO ':4} {goal_text}"


def main() -> None:
    folder, *step = sys.argv[1:]
    path = Path(folder) / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"steps": {}}
    if step:
        name, status, seconds, command = step
        about = {"command": command, "status": int(status), "seconds": int(seconds)}
        summary["steps"][name] = about | {"result": last_object(Path(folder) / f"{name}.log")}
    else:
        summary |= circumstances()
    path.write_text(json.dumps(summary, indent=1) + "\n")
    if not step:
        print(table(summary))
        print(json.dumps({"results": folder, "gpu": summary["gpu"], "steps": len(summary["steps"])}))


if __name__ == "__main__":
    main()

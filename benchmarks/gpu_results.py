"""Gathers what benchmarks/gpu.sh measures: summary.json and summary.txt of a results folder.

`python -m benchmarks.gpu_results FOLDER` notes date, GPU and versions; `python -m benchmarks.gpu_results FOLDER NAME
STATUS SECONDS COMMAND` adds a step, whose output is FOLDER/NAME.log. Both files are complete after each.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

EIGHT = "variants/model.batch_size=8/"
GOALS = (  # step, key, whether more is better, goal: of issues and README, on one H100 or H200
    ("train", "it_per_s", True, 20),
    ("train", EIGHT + "samples_per_s", True, 150),
    ("train", EIGHT + "reserved_gb", False, 5),
    ("train", "ratio_time_monai_over_ours", True, 1.2),
    ("train", "ratio_memory_monai_over_ours", True, 1.2),
    ("full_volume", "seconds", False, 12),
    ("full_volume", "peak_gb", False, 16),
    ("more", "ratio_cached_over_onthefly", True, 2),
    ("more", "ratio_perceptual", True, 0.7),
)
BEST_GOALS = (("samples_per_s", 120), ("mfu", 0.4))  # of any batch size


def last_object(log: Path) -> Any:
    """The last line of a log that is a JSON object, or None: a step that was cut off has said what it knew."""
    with suppress(OSError):
        for line in reversed(log.read_text(errors="replace").splitlines()):
            with suppress(ValueError):
                if line.startswith("{"):
                    return json.loads(line)
    return None


def last_line(log: Path) -> str:
    with suppress(OSError, IndexError):
        return log.read_text(errors="replace").splitlines()[-1][:300]
    return ""


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
    lines += [f"{'':24} {s['said']}" for s in steps.values() if s["result"] is None]
    if summary.get("gpu") is None:
        return "\n".join([*lines, "no GPU: the figures mean nothing beside the goals"])
    for name, key, more, goal in GOALS:
        value = (steps.get(name) or {}).get("result")
        for part in key.split("/"):
            value = (value or {}).get(part)
        lines.append(_against(f"{name}.{key.removeprefix('variants/model.')}", value, more, goal))
    for key, goal in BEST_GOALS:
        values = [run[key] for run in runs(steps) if run.get(key) is not None]
        lines.append(_against(f"best {key}", max(values, default=None), True, goal))
    return "\n".join([str(summary["gpu"]), *lines])


def _against(name: str, value: float | None, more: bool, goal: float) -> str:
    goal_text = f"goal {'>=' if more else '<='} {goal}"
    if value is None:
        return f"{name:44} not measured      {goal_text}"
    reached = value >= goal if more else value <= goal
    return f"{name:44} {value:<12.4g} {'yes' if reached else 'NO ':4} {goal_text}"


def main() -> None:
    folder, *step = sys.argv[1:]
    path = Path(folder) / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"steps": {}}
    if step:
        name, status, seconds, command = step
        about = {"command": command, "status": int(status), "seconds": int(seconds)}
        log = Path(folder) / f"{name}.log"
        summary["steps"][name] = about | {"result": last_object(log), "said": last_line(log)}
    else:
        summary |= circumstances()
    path.write_text(json.dumps(summary, indent=1) + "\n")
    path.with_suffix(".txt").write_text(table(summary) + "\n")
    if not step:
        print(json.dumps({"results": folder, "gpu": summary["gpu"]}))


if __name__ == "__main__":
    main()

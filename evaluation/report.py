"""One self-contained HTML page for an evaluation: numbers, controls, cases, pictures, settings."""

import base64
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from evaluation.controls import FEWEST_FOR_INTERVAL, Controls, ControlScores

NOTICE = (
    "The volumes shown as generated were drawn by a model from one chest X-ray. They are for research, not"
    " for diagnosis: what they show need not exist in the patient."
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 1320px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.notice { border-left: 4px solid #b45309; background: #fff7ed; padding: .6rem 1rem; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child, .pairs td { text-align: left; }
.pairs td { overflow-wrap: anywhere; vertical-align: top; } thead th { border-bottom: 2px solid #888; }
.wide { overflow-x: auto; } .hint { color: #555; max-width: 60rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { font-weight: 600; }
"""


@dataclass(frozen=True)
class CaseRow:
    """One case of the report: its numbers (column -> value) and its page of pictures, where there is one."""

    patient_id: str
    numbers: Mapping[str, object]
    picture: Image.Image | None = None


def write_report(
    path: Path,
    title: str,
    summary: Mapping[str, object],
    controls: Controls | None,
    cases: Sequence[CaseRow],
    settings: Mapping[str, object],
) -> None:
    """Write the page under a temporary name, then rename. It loads nothing from elsewhere and runs no script.

    Args:
        summary: headline numbers, name -> value.
        controls: None where there are too few cases for them.
        settings: what the numbers depend on: window, spacing, checkpoint and its hash, sampler, versions;
            groups within it appear as `group.name`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(report_html(title, summary, controls, cases, settings), encoding="utf-8")
    temporary.replace(path)


def report_html(
    title: str,
    summary: Mapping[str, object],
    controls: Controls | None,
    cases: Sequence[CaseRow],
    settings: Mapping[str, object],
) -> str:
    """The page's text; arguments as in `write_report`."""
    pictures = "\n".join(_figure(case) for case in cases if case.picture is not None)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
<p class="notice">{escape(NOTICE)}</p>
<h2>Summary</h2>
{_pairs(summary)}
{_controls_section(controls) if controls else ""}
<h2>Cases</h2>
{_case_table(cases)}
<h2>Settings</h2>
{_pairs(settings)}
{f"<h2>Pictures</h2>{pictures}" if pictures else ""}
</body>
</html>
"""


def show(value: object) -> str:
    """A value as the page prints it: 24.43, 0.7876, a dash for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else show(item) for item in value)
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(show(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _pairs(values: Mapping[str, object]) -> str:
    rows = "\n".join(f"<tr><td>{escape(name)}</td><td>{escape(show(value))}</td></tr>" for name, value in _flat(values))
    return f'<div class="wide"><table class="pairs"><tbody>\n{rows}\n</tbody></table></div>'


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _case_table(cases: Sequence[CaseRow]) -> str:
    names = list(dict.fromkeys(name for case in cases for name in case.numbers))
    rows = [[case.patient_id, *(case.numbers.get(name) for name in names)] for case in cases]
    return _table(("patient", *names), rows)


def _controls_section(controls: Controls) -> str:
    rows = [_control_row("PSNR, dB", controls.psnr), _control_row("SSIM", controls.ssim)]
    table = _table(("", "right X-ray", "wrong X-rays", "mean volume", "codec", "right - wrong", "95 % interval"), rows)
    low, high = controls.window
    pairings = controls.num_cases * (controls.num_cases - 1)
    hint = (
        f"All volumes on one millimetre grid, HU {low:g} to {high:g}. Wrong X-rays: all {pairings}"
        f" pairings of one case's generated CT with another's real CT. Mean volume: the mean training CT"
        " offered for every case, if the data set has training cases. Codec: the real CT through encoder and decoder,"
        f" the most this model can reach. Interval: bootstrap over cases, from {FEWEST_FOR_INTERVAL} of them on."
    )
    return f'<h2>Does the X-ray decide the CT?</h2>\n{table}\n<p class="hint">{escape(hint)}</p>'


def _control_row(name: str, scores: ControlScores) -> list[object]:
    interval = None if scores.low is None else f"{show(scores.low)} to {show(scores.high)}"
    values = (scores.right, scores.shuffled, scores.mean_volume, scores.codec, scores.difference)
    return [name, *values, interval]


def _figure(case: CaseRow) -> str:
    stream = BytesIO()
    if case.picture is not None:
        case.picture.save(stream, format="PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    name = escape(case.patient_id)
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<img src="data:image/png;base64,{data}" alt="X-ray, real and generated CT of {name}"></figure>'
    )

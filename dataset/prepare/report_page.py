"""The doctor's page: one HTML file that shows what is in a data set and what is wrong with it."""

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from statistics import median

from dataset.prepare.thumbnails import thumbnail_path
from dataset.scans.measure import HU_PERCENTILES
from dataset.store.case import Problem
from dataset.store.store import StoredCase

_MAX_PROBLEM_PICTURES = 100  # a picture takes about 30 kB
_MAX_GOOD_PICTURES = 24
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 1320px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin-bottom: 1.5rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top;
         overflow-wrap: break-word; min-width: 5rem; }
thead th { border-bottom: 2px solid #888; } tbody th { font-weight: 600; }
.wide { overflow-x: auto; } .hint { color: #555; max-width: 60rem; } .used { color: #92600a; }
img { display: block; height: 160px; } td img { height: 120px; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
figcaption { font-size: .85rem; max-width: 22rem; overflow-wrap: anywhere; }
"""


def report_page(store: Path, cases: Sequence[StoredCase], problems: Sequence[Problem]) -> str:
    """The page's text. It loads nothing from elsewhere and runs no script; pictures lie within it.

    Args:
        cases: the good ones.
        problems: of all cases, in the order to show them.
    """
    shown, omitted = _problem_rows(store, problems)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data report</title><style>{_STYLE}</style></head>
<body>
<h1>Data report</h1>
<p class="hint">Written by prepare_data.py. Cases with a problem are left out of training unless marked "used anyway";
their files are never changed. It names patients by the ids that were given: treat it like the data.</p>
<h2>Summary</h2>
{_table((), _summary_rows(cases, problems))}
<h2>Problems</h2>
{_rules(problems) if problems else "<p>None was found.</p>"}
{_table(("case", "file", "rule", "found", "what to do", "CT and X-ray"), shown) if problems else ""}
{f'<p class="hint">{omitted} more cases with problems are listed without a picture.</p>' if omitted else ""}
{_gallery(store, cases)}
</body>
</html>
"""


def _summary_rows(cases: Sequence[StoredCase], problems: Sequence[Problem]) -> list[list[str]]:
    bad = {problem.patient_id for problem in problems if problem.fatal}
    rows = [("good cases", str(len(cases))), ("left out", str(len(bad))), ("problems found", str(len(problems)))]
    if cases:
        percentiles = zip(*(case.hu_percentiles for case in cases), strict=True)
        hu = [f"{_number(p)} %: {median(values):.0f}" for p, values in zip(HU_PERCENTILES, percentiles, strict=True)]
        rows += [
            ("splits", _counts(case.split for case in cases)),
            ("labels (target)", _counts("none" if c.target is None else _number(c.target) for c in cases)),
            ("voxels (foot-head, front-back, right-left)", _triples(case.shape for case in cases)),
            ("voxel size in mm, same order", _triples(case.spacing for case in cases)),
            ("HU percentiles, median over the cases", ", ".join(hu)),
            ("orientation of the files", _counts(case.source_axes for case in cases)),
            ("kinds of X-ray", _counts(case.xray_kind for case in cases)),
            ("X-rays projected from a CT", str(sum(case.xray_synthetic for case in cases))),
            ("X-rays whose place in the patient is known", str(sum(c.xray_affine is not None for c in cases))),
        ]
    return [[_header(name), escape(value)] for name, value in rows]


def _problem_rows(store: Path, problems: Sequence[Problem]) -> tuple[list[list[str]], int]:
    """A row per problem, with the case's picture in its first row; how many pictures were left out."""
    rows, seen, pictures, omitted = [], set(), 0, 0
    for problem in problems:
        picture = ""
        if problem.patient_id not in seen:
            seen.add(problem.patient_id)
            picture = _picture(store, problem.patient_id)
            if picture and pictures == _MAX_PROBLEM_PICTURES:
                picture, omitted = "", omitted + 1
            pictures += bool(picture)
        used = "" if problem.fatal else ' <span class="used">(used anyway)</span>'
        text = [escape(t) for t in (problem.path, problem.rule, problem.found, problem.remedy)]
        rows.append([_header(problem.patient_id), text[0], text[1] + used, text[2], text[3], picture])
    return rows, omitted


def _rules(problems: Sequence[Problem]) -> str:
    counts = Counter(problem.rule for problem in problems)
    return _table(("rule broken", "problems"), [[escape(rule), str(count)] for rule, count in counts.most_common()])


def _gallery(store: Path, cases: Sequence[StoredCase]) -> str:
    """Good cases, evenly spread over the ids."""
    step = -(-len(cases) // _MAX_GOOD_PICTURES) or 1
    figures = []
    for case in cases[::step]:
        picture = _picture(store, case.patient_id)
        if picture:
            size = " × ".join(str(n) for n in case.shape)
            caption = f"{case.patient_id} ({case.split}), {size}{', projected X-ray' if case.xray_synthetic else ''}"
            figures.append(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>")
    if not figures:
        return ""
    hint = "The middle coronal plane of each CT (the patient's right on the left) beside its X-ray. Do they fit?"
    title = f"<h2>{len(figures)} of {len(cases)} good cases</h2>"
    return f'{title}\n<p class="hint">{hint}</p>\n<div class="gallery">\n' + "\n".join(figures) + "\n</div>"


def _picture(store: Path, patient_id: str) -> str:
    """The case's picture as an element; nothing if none was made, or the id is no file name."""
    path = thumbnail_path(store, patient_id)
    if path.parent != store / "thumbnails" or not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="CT and X-ray of {escape(patient_id)}" src="data:image/png;base64,{content}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead>" if head else ""
    body = "\n".join(
        "<tr>" + "".join(cell if cell.startswith("<th") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>{top}<tbody>\n{body}\n</tbody></table></div>'


def _header(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _counts(values: Iterable[str]) -> str:
    return ", ".join(f"{value}: {count}" for value, count in sorted(Counter(values).items()))


def _triples(values: Iterable[Sequence[float]]) -> str:
    """Smallest, middle and largest per axis."""
    axes = [sorted(axis) for axis in zip(*values, strict=True)]
    return "; ".join(
        f"{name} " + " × ".join(_number(choose(axis)) for axis in axes)
        for name, choose in (("smallest", min), ("median", median), ("largest", max))
    )


def _number(value: float) -> str:
    return f"{value:.4g}"

import json
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest

from common.notice import NOTICE
from evaluation.controls import finite
from evaluation.metrics import psnr
from evaluation.report.definitions import definition
from evaluation.report.page import report_html, show, write_report
from evaluation.summary import Findings

WINDOW = (-1000.0, 1000.0)
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects a page's text, attributes and tables; fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open) and data.strip():
            self.cells.append(data.strip())


def findings_of(cases, controls=True):
    """Of a model that is better with the right X-ray than with a wrong one and without."""
    volumes, numbers = [], []
    for i in range(cases):
        real = np.random.default_rng(i).uniform(-1000, 1000, (8, 8, 8))
        drawn = {"right": 0.9 * real, "wrong": 0.7 * real, "null": (0.8 + 0.01 * i) * real, "codec": 0.95 * real}
        names = drawn if controls else ("right", "codec")
        volumes.append(
            [
                {
                    "of": name,
                    "lung_ml": 5000.0 + 10 * i,
                    "scores": [{"preset": "p", "psnr": psnr(drawn[name], real, WINDOW), "ssim": 0.5, "hu_mae": 1.0}],
                }
                for name in names
            ]
        )
        textures = {"block_index": 1.5, "block_index_codec": 1.25, "block_index_real": 1.0, "gradient_energy": 0.75}
        numbers.append({"lung_ml_real": 4900.0 + 10 * i, **textures})
    return Findings.of(volumes, numbers, [f"p{i}" for i in range(cases)], seed=0)


@pytest.fixture(scope="module")
def findings():
    return findings_of(5)


NUMBERS = [{"psnr": 24.8, "ssim": 0.79317, "dice_lung": 0.9}, {"psnr": 18.5, "hu_mae": 70.8}]


def metrics_of(findings, numbers=None, **more):
    """What metrics.json would hold of these findings."""
    numbers = numbers or NUMBERS
    names = ["p<1>", "p2", "p3", "p4", "p5"][: len(numbers)]
    score = {"preset": "hu", "window": [-1000, 1000], "data_range": 2000, "mode": "3d", "psnr": 1.0}
    settings = {"HU window": [-1000.0, 1000.0], "checkpoint sha256": "ab" * 32, "model": {"dim": 96}}
    found = {
        "verdict": findings.verdict,
        "summary": findings.summary(),
        "controls": asdict(findings),
        "settings": settings,
        "cases": numbers,
        "scores": {name: [{"of": "right", "scores": [score]}] for name in names},
    }
    return json.loads(json.dumps(finite(found | more)))


def page_text(findings, **more):
    return report_html("Evaluation & controls", metrics_of(findings, **more), {"p<1>"}, ["p2"], {"p2": {"real": "a"}})


def test_the_page_holds_every_number_and_setting(findings):
    cells = Page(page_text(findings)).cells
    psnrs = findings.scores["psnr"]
    right, wrong, null, codec = (show(psnrs.means[name]) for name in ("right", "wrong", "null", "codec"))
    row = cells[cells.index("PSNR, dB") :]
    assert row[1:5] == [right, wrong, null, codec]
    assert row[5:7] == [show(asdict(psnrs.differences[name])) for name in ("wrong", "null")]
    low, high = (show(end) for end in (psnrs.differences["null"].low, psnrs.differences["null"].high))
    assert row[6].endswith(f" ({low} to {high})")
    assert cells[cells.index("block_index_codec") + 1] == "1.25"
    for text in ("p<1>", "24.80", "0.7932", "p2", "70.80", "-1000, 1000", "ab" * 32, "model.dim", "96", "–"):
        assert text in cells
    assert set(findings.summary()) - {n for n in findings.summary() if n.endswith("_95")} <= set(cells)
    assert NOTICE in page_text(findings)


def test_the_page_begins_with_the_verdict(findings):
    text = page_text(findings)
    for sentence in findings.verdict:
        assert text.index(sentence.replace("'", "&#39;")) < text.index("<table")
    assert len(findings.verdict) == 2


def test_every_number_of_an_evaluation_has_its_definition(findings):
    page = Page(page_text(findings))
    opened = [value for name, value in page.attributes if name == "popovertarget"]
    assert set(opened) <= {value for name, value in page.attributes if name == "id"}
    named = [name for name in findings.summary() if not name.endswith("_95")]
    assert len(opened) > len(named)
    presets = {"": {"window": [-1000, 1000], "data_range": 2000.0, "mode": "3d"}}
    presets["x2ct_compat"] = {"window": [-1000, 1500], "data_range": 4095.0, "mode": "slices"}
    assert all(definition(name, presets) for name in findings.summary())
    said = definition("psnr_wrong x2ct_compat", presets)
    assert "4095" in said
    assert "slice" in said
    assert "another patient" in said
    presets["hu2000_gaussian"] = presets[""] | {"ssim_window": "gaussian"}
    assert "Uniform 7×7×7" in definition("ssim_right", presets)
    assert "σ 1.5" in definition("ssim_right hu2000_gaussian", presets)
    assert "encoder" in definition("dice_bone_codec", presets)
    assert definition("who_knows", presets) is None
    assert definition("fid_axial", presets, {"fid": "Distance of features."}) == "Distance of features."


def test_what_the_page_does_not_know_is_shown_all_the_same(findings):
    memory = {"nearest": {"p2": {"distance": 0.25, "patient": "t7"}, "p3": {"distance": 0.5}}}
    task = [{"of": "real", "auc": {"value": 0.8, "low": 0.7, "high": 0.9}}, {"of": "drawn", "auc": None}]
    text = page_text(findings, memory=memory, task=task, definitions={"auc": "Area under the curve."})
    cells = Page(text).cells
    assert {"t7", "0.2500", "0.8000 (0.7000 to 0.9000)", "drawn"} <= set(cells)
    assert "Area under the curve." in text


def test_the_headline_numbers_have_names(findings):
    summary = findings.summary()
    assert summary["right_minus_wrong"] == pytest.approx(summary["psnr_right"] - summary["psnr_wrong"])
    assert summary["right_minus_null_95"][0] < summary["right_minus_null"] < summary["right_minus_null_95"][1]
    assert summary["lung_volume_correlation_wrong"] == pytest.approx(1)
    assert summary["gradient_energy"] == 0.75
    assert "psnr_mean_volume" not in summary


def test_an_interval_of_few_cases_is_left_out():
    cells = Page(page_text(findings_of(3))).cells
    assert "(" not in cells[cells.index("PSNR, dB") + 5]


def test_the_page_loads_files_of_its_folder_only(findings):
    text = page_text(findings)
    page = Page(text)
    assert not page.tags & {"link", "iframe", "object"}
    sources = [value for name, value in page.attributes if name == "src" or (name == "href" and value[0] != "#")]
    assert sources == [
        "report/niivue-LICENSE.txt",
        "p%3C1%3E.png",
        "report/niivue-0.69.0.js",
        "report/page.js",
    ]
    assert "http" not in text
    assert "url(" not in text


def test_without_controls_the_page_says_nothing_of_the_xray():
    text = report_html("t", metrics_of(findings_of(1, controls=False), [{"ssim": 0.5}]))
    assert "Verdict" not in text
    assert "0.5000" in Page(text).cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (24.431, "24.43"),
        (0.78761, "0.7876"),
        (1e-5, "1e-05"),
        (0.0, "0"),
        (float("inf"), "∞"),
        (None, "–"),
        (7, "7"),
    ],
)
def test_values_are_shown_with_the_digits_that_matter(value, text):
    assert show(value) == text


def test_a_report_is_written_from_metrics_json_alone(tmp_path, findings):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics_of(findings)))
    (tmp_path / "p2.png").write_bytes(b"a picture")
    for _ in range(2):
        page = write_report(tmp_path)
        assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "p2.png", "report", "report.html"]
        names = {"niivue-0.69.0.js", "niivue-LICENSE.txt", "page.js"}
        assert {path.name for path in (tmp_path / "report").iterdir()} == names
    assert 'src="p2.png"' in page.read_text()


def test_the_pairs_nearest_to_one_another_are_shown(tmp_path, findings):
    pair = {"by": "HU", "case": "p<1>", "training": "t1", "distance": 9.0, "ratio": 0.25}
    closest = [pair | {"picture": "closest_HU_p<1>.png"}, pair | {"case": "p2", "picture": "closest_HU_p2.png"}]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics_of(findings, closest=closest)))
    (tmp_path / "closest_HU_p<1>.png").write_bytes(b"")
    page = Page(write_report(tmp_path).read_text())
    shown = [value for name, value in page.attributes if name == "src" and value.startswith("closest_")]
    assert shown == ["closest_HU_p%3C1%3E.png"]
    assert ("alt", "training CT t1 and the CT drawn for p<1>") in page.attributes

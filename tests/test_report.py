import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from common.atomic import write_text
from common.notice import NOTICE
from evaluation.metrics import psnr
from evaluation.report import CaseRow, report_html, show
from evaluation.summary import Findings

WINDOW = (-1000.0, 1000.0)
VOID = {"meta", "img", "br", "link"}


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
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


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


def page_text(findings):
    picture = Image.new("L", (30, 20), 77)
    cases = [CaseRow("p<1>", {"PSNR, dB": 24.8, "SSIM": 0.79317}, picture), CaseRow("p2", {"MAE, HU": 70.8})]
    settings = {"HU window": [-1000.0, 1000.0], "checkpoint sha256": "ab" * 32, "model": {"dim": 96}}
    return report_html("Evaluation & controls", findings, cases, settings)


def test_the_page_holds_every_number_and_setting(findings):
    cells = Page(page_text(findings)).cells
    psnrs = findings.scores["psnr"]
    right, wrong, null, codec = (show(psnrs.means[name]) for name in ("right", "wrong", "null", "codec"))
    row = cells[cells.index("PSNR, dB") :]
    assert row[1:7] == [right, wrong, null, "–", "–", codec]
    assert row[7:11] == [show(psnrs.differences["wrong"]), show(psnrs.differences["null"]), "–", "–"]
    low, high = (show(end) for end in (psnrs.differences["null"].low, psnrs.differences["null"].high))
    assert row[8].endswith(f" ({low} to {high})")
    assert cells[cells.index("block_index_codec") + 1] == "1.25"
    for text in ("p<1>", "24.80", "0.7932", "p2", "70.80", "-1000, 1000", "ab" * 32, "model.dim", "96", "–"):
        assert text in cells
    assert NOTICE in page_text(findings)


def test_the_page_begins_with_the_verdict(findings):
    text = page_text(findings)
    for sentence in findings.verdict:
        assert text.index(sentence.replace("'", "&#39;")) < text.index("<table")
    assert len(findings.verdict) == 2


def test_the_headline_numbers_have_names(findings):
    summary = findings.summary()
    assert summary["right_minus_wrong"] == pytest.approx(summary["psnr_right"] - summary["psnr_wrong"])
    assert summary["right_minus_null_95"][0] < summary["right_minus_null"] < summary["right_minus_null_95"][1]
    assert summary["lung_volume_correlation_wrong"] == pytest.approx(1)
    assert summary["gradient_energy"] == 0.75
    assert "psnr_mean_volume" not in summary


def test_an_interval_of_few_cases_is_left_out():
    cells = Page(page_text(findings_of(3))).cells
    assert "(" not in cells[cells.index("PSNR, dB") + 6]


def test_the_page_needs_nothing_else(findings):
    text = page_text(findings)
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object"}
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "url(" not in text


def test_pictures_come_back_as_they_were(findings):
    sources = [value for name, value in Page(page_text(findings)).attributes if name == "src"]
    assert len(sources) == 1
    with Image.open(BytesIO(base64.b64decode(sources[0].split(",")[1]))) as picture:
        assert picture.size == (30, 20)
        assert picture.getpixel((3, 3)) == 77


def test_without_controls_the_page_says_nothing_of_the_xray():
    text = report_html("t", findings_of(1, controls=False), [CaseRow("only", {"SSIM": 0.5})], {})
    assert "Does the X-ray decide" not in text
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


def test_the_file_is_written_whole_or_not_at_all(tmp_path, findings):
    path = tmp_path / "sub" / "report.html"
    write_text(path, report_html("t", findings, [], {}))
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(AttributeError):
        write_text(path, report_html("t", findings, ["not a case"], {}))
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

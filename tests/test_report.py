import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from common.atomic import write_text
from common.notice import NOTICE
from evaluation.controls import compare_with_controls
from evaluation.report import CaseRow, report_html, show

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


def controls_of(cases):
    real = [np.random.default_rng(i).uniform(-1000, 1000, (8, 8, 8)) for i in range(cases)]
    return compare_with_controls([0.9 * c for c in real], real, np.mean(real, axis=0), real, WINDOW)


@pytest.fixture(scope="module")
def controls():
    return controls_of(5)


def page_text(controls):
    picture = Image.new("L", (30, 20), 77)
    cases = [CaseRow("p<1>", {"PSNR, dB": 24.8, "SSIM": 0.79317}, picture), CaseRow("p2", {"MAE, HU": 70.8})]
    settings = {"HU window": [-1000.0, 1000.0], "checkpoint sha256": "ab" * 32, "model": {"dim": 96}}
    return report_html("Evaluation & controls", {"lung volume correlation": None}, controls, cases, settings)


def test_the_page_holds_every_number_and_setting(controls):
    cells = Page(page_text(controls)).cells
    row = cells[cells.index("PSNR, dB") :]
    assert row[1:4] == [
        show(controls.psnr.right),
        show(controls.psnr.shuffled),
        show(controls.psnr.mean_volume),
    ]
    assert row[6] == f"{show(controls.psnr.low)} to {show(controls.psnr.high)}"
    for text in ("p<1>", "24.80", "0.7932", "p2", "70.80", "-1000, 1000", "ab" * 32, "model.dim", "96", "–"):
        assert text in cells
    assert NOTICE in page_text(controls)


def test_an_interval_of_few_cases_is_a_dash():
    cells = Page(page_text(controls_of(3))).cells
    assert cells[cells.index("PSNR, dB") + 6] == "–"


def test_the_page_needs_nothing_else(controls):
    text = page_text(controls)
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object"}
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "url(" not in text


def test_pictures_come_back_as_they_were(controls):
    sources = [value for name, value in Page(page_text(controls)).attributes if name == "src"]
    assert len(sources) == 1
    with Image.open(BytesIO(base64.b64decode(sources[0].split(",")[1]))) as picture:
        assert picture.size == (30, 20)
        assert picture.getpixel((3, 3)) == 77


def test_too_few_cases_leave_the_controls_out():
    text = report_html("t", {"cases": 1}, None, [CaseRow("only", {"SSIM": 0.5})], {})
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


def test_the_file_is_written_whole_or_not_at_all(tmp_path, controls):
    path = tmp_path / "sub" / "report.html"
    write_text(path, report_html("t", {}, controls, [], {}))
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(AttributeError):
        write_text(path, report_html("t", {}, controls, ["not a case"], {}))
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

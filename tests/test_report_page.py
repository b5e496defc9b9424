"""STORE/report.html and the pictures on it."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dataset.prepare.reports import report_page
from dataset.prepare.run import prepare
from dataset.prepare.thumbnails import HEIGHT, coronal_view, thumbnail_path, write_thumbnail
from dataset.scans.volume_io import read_ct, write_ct
from dataset.scans.xray_io import Xray, write_xray
from dataset.store.case import Problem
from tests.pairs import AFFINE, SHAPE, add_case


class Page(HTMLParser):
    """The page's elements: names, attributes, texts; and whether every one was closed."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.attributes += attributes
        if name not in ("meta", "img"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def pictures(self):
        sources = [value for name, value in self.attributes if name == "src"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [Image.open(BytesIO(base64.b64decode(s.split(",")[1]))) for s in sources]


@pytest.fixture
def root(tmp_path):
    for seed in range(5):
        add_case(tmp_path / "data", f"p{seed}", seed)
    return tmp_path / "data"


def prepared_page(root, store):
    prepare(root, store)
    page = Page((store / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_counts_what_is_there(root, tmp_path):
    write_xray(root / "p0" / "x_pa_drr.png", np.random.default_rng(0).random((80, 96)), None, synthetic=False)
    (root / "p1" / "p1.nii.gz").write_bytes(b"nothing")
    text = prepared_page(root, tmp_path / "store").text
    for expected in (
        "good cases 4",
        "left out 1",
        "problems found 1",
        "splits train: 3, val: 1",
        "median 20 × 24 × 28",
        "median 5 × 4 × 4",
        "95 %: 5",
        "uint16: 4",
        "projected from a CT 3",
        "place in the patient is known 3",
        "labels (target) none: 4",
    ):
        assert expected in text, expected


def test_every_problem_is_on_the_page_with_a_picture_of_what_could_be_read(root, tmp_path):
    (root / "p0" / "p0.nii.gz").write_bytes(b"nothing")  # its X-ray can be read
    write_ct(root / "p1" / "p1.nii.gz", np.zeros(SHAPE), AFFINE)
    (root / "p2" / "p2.nii.gz").write_bytes(b"nothing")
    (root / "p2" / "x_pa_drr.png").write_text("nothing")
    store = tmp_path / "store"
    report = prepare(root, store)
    page = Page((store / "report.html").read_text(encoding="utf-8"))
    assert len(report.problems) == 4
    for problem in report.problems:
        for text in (problem.rule, problem.found, problem.remedy, problem.path):
            assert " ".join(text.split()) in page.text
    assert not thumbnail_path(store, "p2").exists()
    widths = [picture.width for picture in page.pictures]
    xray, ct = round(HEIGHT * 96 / 80), round(HEIGHT * 28 * 4 / (20 * 5))
    assert widths == [xray, xray + ct + 4, xray + ct + 4, xray + ct + 4]  # p0, p1; then the good p3 and p4
    assert {picture.height for picture in page.pictures} == {HEIGHT}


def test_nothing_on_the_page_is_taken_for_markup(tmp_path):
    evil = '<script>alert("1")</script>'
    problem = Problem(evil, f"{evil}.png", f"rule {evil}", f"found {evil} & more", f"do {evil}")
    text = report_page(tmp_path, [], [problem])
    page = Page(text)
    assert "script" not in page.names
    assert "<script" not in text
    assert page.text.count(evil) >= 5


def test_a_patient_id_of_markup_in_the_data_set_is_escaped(root, tmp_path):
    name = "<script>alert(1)<"  # a folder's name may hold anything but a slash
    add_case(root, name, 9)
    page = prepared_page(root, tmp_path / "store")
    assert "script" not in page.names
    assert name in page.text


def test_the_page_loads_nothing_and_runs_nothing(root, tmp_path):
    store = tmp_path / "store"
    page = prepared_page(root, store)
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.names)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "href"]
    assert not re.search(r"https?:|url\(|@import", (store / "report.html").read_text())
    assert len(page.pictures) == 5


def test_pictures_are_limited_and_an_id_leads_nowhere_else(root, tmp_path, monkeypatch):
    store = tmp_path / "store"
    cases = prepare(root, store).cases
    monkeypatch.setattr("dataset.prepare.reports._MAX_GOOD_PICTURES", 2)
    monkeypatch.setattr("dataset.prepare.reports._MAX_PROBLEM_PICTURES", 1)
    problems = [Problem(name, "f", "rule", "found", "do") for name in ("p0", "p0", "p1", "../thumbnails/p2")]
    page = Page(report_page(store, cases, problems))
    assert len(page.pictures) == 1 + 2
    assert "1 more cases with problems" in page.text


def test_the_page_of_no_good_case_is_written_too(tmp_path):
    add_case(tmp_path / "data", "p", 0)
    (tmp_path / "data" / "p" / "x_pa_drr.png").write_text("no image")
    with pytest.raises(ValueError, match="0 good cases"):
        prepare(tmp_path / "data", tmp_path / "store")
    page = Page((tmp_path / "store" / "report.html").read_text(encoding="utf-8"))
    assert "good cases 0" in page.text
    assert len(page.pictures) == 1


def test_a_thumbnail_shows_the_head_up_and_the_patients_right_on_the_left(tmp_path):
    hu = np.full(SHAPE, -1000, np.int16)
    hu[15:, :, :8] = 500  # above, on the patient's right
    write_ct(tmp_path / "ct.nii.gz", hu, AFFINE, "RAI")
    view = np.asarray(coronal_view(read_ct(tmp_path / "ct.nii.gz")))
    h, w = view.shape
    assert w / h == pytest.approx(28 * 4 / (20 * 5), abs=0.01)
    assert view[: h // 5, : w // 5].min() == 255
    assert view[: h // 5, w // 2 :].max() == 0
    assert view[h // 2 :].max() == 0


def test_a_thumbnail_of_a_case_that_can_no_longer_be_read_goes(tmp_path):
    xray = Xray(np.random.default_rng(0).random((3000, 2000)), "uint8", None, synthetic=False)
    write_thumbnail(tmp_path, "p", None, xray)
    with Image.open(thumbnail_path(tmp_path, "p")) as picture:
        assert (picture.mode, picture.size) == ("L", (round(HEIGHT * 2 / 3), HEIGHT))
    write_thumbnail(tmp_path, "p", None, None)
    assert not thumbnail_path(tmp_path, "p").exists()


def test_a_run_that_prepares_nothing_leaves_pictures_and_page_as_they_are(root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store)
    names = [*store.glob("thumbnails/*"), *store.glob("volumes/*"), *store.glob("xrays/*"), *store.glob("cases/*")]
    before = {path: path.stat().st_mtime_ns if path in names else path.read_bytes() for path in files(store)}
    assert prepare(root, store).prepared == 0
    assert {path: path.stat().st_mtime_ns if path in names else path.read_bytes() for path in files(store)} == before
    assert len(names) == 20


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())

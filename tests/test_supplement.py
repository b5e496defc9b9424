"""python -m evaluation.report.supplement: pages as a PDF, flights through CTs."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from PIL.PdfParser import PdfParser

from evaluation.report import supplement
from evaluation.report.volumes import choose, embed, embedded_pair

AFFINE = np.diag([-2.0, -3.0, 4.0, 1.0])
NAMES = ["p<1>", "p2", "p3"]


@pytest.fixture
def folder(tmp_path):
    """Three cases with pages; the CTs of the first are embedded: tissue in the lower half, drawn for the upper."""
    folder = tmp_path / "ev"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"scores": dict.fromkeys(NAMES, [])}))
    for i, name in enumerate(NAMES):
        Image.new("P", (60 + i, 40), 7).save(folder / f"{name}.png")
    real = np.full((10, 12, 14), -1000, np.int16)
    real[:5] = 40
    choose(folder, NAMES[:1])
    embed(folder, NAMES[0], (real, real[::-1]), AFFINE, 1_000_000)
    return folder


def supplement_of(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["supplement", str(folder)])
    supplement.main()


def test_every_case_has_its_page_in_the_pdf(folder, monkeypatch):
    supplement_of(folder, monkeypatch)
    with PdfParser(str(folder / "supplement.pdf")) as pdf:
        assert len(pdf.pages) == len(NAMES)
    size = (folder / "supplement.pdf").stat().st_size
    supplement_of(folder, monkeypatch)  # anew, not once more
    assert (folder / "supplement.pdf").stat().st_size == size


def test_a_flight_goes_from_foot_to_head_with_the_real_ct_at_the_left(folder, monkeypatch):
    supplement_of(folder, monkeypatch)
    assert [path.name for path in folder.glob("*.gif")] == ["flight_p<1>.gif"]
    with Image.open(folder / "flight_p<1>.gif") as flight:
        assert flight.n_frames == 10
        for frame, bright in ((0, "left"), (9, "right")):
            flight.seek(frame)
            grey = np.asarray(flight.convert("L")).astype(int)[60:200]
            left, right = (part[:, 50:-50].mean() for part in np.array_split(grey, 2, axis=1))
            assert (left - right > 100) if bright == "left" else (right - left > 100)


def test_what_is_embedded_is_read_back(folder):
    pair, spacing = embedded_pair(folder, NAMES[0])
    assert spacing == (4.0, 3.0, 2.0)
    assert np.array_equal(pair["real"][:, 0, 0], [40] * 5 + [-1000] * 5)
    assert np.array_equal(pair["generated"], pair["real"][::-1])


def test_an_evaluation_without_pictures_is_told(tmp_path, monkeypatch, capsys):
    for content, words in ((None, "metrics.json"), ('{"scores": {"p1": []}}', "has no pictures")):
        if content:
            (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(SystemExit) as ended:
            supplement_of(tmp_path, monkeypatch)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pdf"))

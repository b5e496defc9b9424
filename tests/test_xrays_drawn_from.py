"""An X-ray that a CT is drawn from: what preparing would report of it is said, and a kind that training never had."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common.errors import BadFileError
from dataset.store.latent_source import xray_identity
from dataset.store.store import VolumeStore
from pipeline.sampling.ct_sampler import CTSampler
from tests.test_xray_dicom import RAMP, dicom_xray

WIDE = (0.3 + 0.6 * np.random.default_rng(0).random((800, 1000))).astype(np.float32)  # darker than 0.3: its padding


@pytest.fixture
def model(workshop):
    return CTSampler(workshop.ddpm_ckpt)


def film(path, image=WIDE):
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path)
    return path


def test_a_useless_window_and_another_tools_json_are_said_once(model, tmp_path, caplog):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    path = dicom_xray(tmp_path / "film.dcm", values, WindowCenter=0, WindowWidth=1, PatientName="Planted^Name")
    path.with_suffix(".json").write_text(json.dumps({"Modality": "DX"}))
    for _ in range(2):
        model.load_xray(path)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for words in ("window shows", "another tool's", "none of dicom"):
        assert [words in text for text in said].count(True) == 1, words
    assert sum(text.startswith("film.dcm: ") for text in said) == len(said) - 1
    assert not any("Planted" in text or str(tmp_path) in text for text in said)


def test_a_film_like_those_of_training_is_drawn_from_without_a_word(model, workshop, caplog):
    model.load_xray(workshop.xray)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_what_is_fatal_still_refuses_the_file(model, tmp_path):
    with pytest.raises(BadFileError, match="grey levels"):
        model.load_xray(film(tmp_path / "blank.png", np.zeros((100, 100), np.float32)))


def test_a_kind_that_training_never_had_is_said_and_scaled_by_what_the_film_shows(model, tmp_path, caplog):
    paths = film(tmp_path / "a.png"), film(tmp_path / "b.png")
    shown, _ = (model.load_xray(path).xray[0].numpy() for path in paths)
    low, high = np.percentile(np.rint(WIDE * 255) / 255, (0.5, 99.5))
    assert shown[256].mean() == pytest.approx((WIDE.mean() - low) / (high - low), abs=0.02)
    assert (shown[:50] == 0).all()  # the padding
    said = [record.getMessage() for record in caplog.records]
    assert [("of kind uint16, none of uint8" in text) for text in said] == [True]  # of both films


def test_of_a_store_likewise(model, workshop, caplog):
    """By the percentiles of the X-ray's own image, which the manifest has, not by those of its padded square."""
    store = VolumeStore(workshop.store)
    case = replace(store.cases[0], xray_kind="dicom", xray_percentiles=(0.25, 0.75))
    store.xray_ranges = {"dicom": (0.0, 1.0)}
    square = store.read_xray(case)
    for _ in range(2):
        shown = model.stored_xray(store, case).xray[0].numpy()
    np.testing.assert_allclose(shown, np.clip((square - 0.25) / 0.5, 0, 1), atol=1e-6)
    assert ["none of dicom" in record.getMessage() for record in caplog.records] == [True]
    assert xray_identity(case, model.description.xray_ranges)["xray_range"] == [0.25, 0.75]

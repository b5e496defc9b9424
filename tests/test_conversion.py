"""Spacing, crop and projected X-rays, from the pairs on disk to the store."""

import numpy as np
import pytest
import torch

import prepare_data
import train_vqgan_patches_4gpu
from dataset.prepare.conversion import Conversion, parse_spacing
from dataset.prepare.conversion_file import check_conversion
from dataset.prepare.run import prepare
from dataset.scans import camera as cam
from dataset.scans.volume_io import read_ct
from dataset.store.latents import LatentCache, LatentSource, LatentWriter
from dataset.store.store import VolumeStore, xray_path
from dataset.store.stored_array import open_array
from dataset.store.xray_features import XrayFeatures
from tests.pairs import AFFINE, SHAPE, add_case, add_ct, thorax
from tests.tiny import run

ROD = (6.5, 20)  # voxel (d, w) of a dense rod from front to back


def with_rod(seed):
    hu = thorax(seed)
    hu[6:8, 4:20, 20] = 3000
    return hu


def of_spacing(*spacing):
    return Conversion(spacing=spacing)


@pytest.fixture
def root(tmp_path):
    for seed in range(3):
        add_case(tmp_path / "data", f"p{seed}", seed)
    return tmp_path / "data"


@pytest.fixture
def lonely(tmp_path):
    """CTs that have no X-ray, and one that has."""
    root = tmp_path / "data"
    for seed, name in enumerate(("a", "b")):
        add_ct(root, name, with_rod(seed), axes=("LPS", "RAS")[seed])
    add_case(root, "paired", 7)
    return root


def whole(store, case):
    return VolumeStore(store).read_hu(case, (0, 0, 0), case.shape)


def brightest(store, case):
    """(x mm, z mm) of the X-ray's brightest spot by the manifest's geometry."""
    image = open_array(xray_path(store, case.patient_id), case.source_hash)[:].astype(float)
    rows, columns = np.nonzero(image > 0.9 * image.max())
    in_middle = np.linalg.inv(np.array(case.xray_camera)[:, [0, 2, 3]]) @ [columns.mean(), rows.mean(), 1]
    return in_middle[:2] / in_middle[2]


def test_the_manifest_is_that_of_the_stored_array(root, tmp_path):
    case = prepare(root, tmp_path / "store", conversion=of_spacing(5.0, 8.0, 8.0)).cases[0]
    source = read_ct(root / case.ct_source)
    assert (case.shape, case.spacing) == ((20, 12, 14), (5, 8, 8))
    assert whole(tmp_path / "store", case).shape == case.shape
    np.testing.assert_array_equal(case.source_affine, source.source_affine)
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    expected = source.affine @ [*middle, 1]
    np.testing.assert_allclose(np.array(case.affine) @ [6.5, 5.5, 9.5, 1], expected)
    low, high = case.body_box
    assert low <= (0, 2, 1)
    assert (np.array(high) <= case.shape).all()


def test_other_settings_make_a_case_anew_and_the_same_do_not(root, tmp_path):
    store, fine = tmp_path / "store", of_spacing(4.0, 4.0, 4.0)
    assert prepare(root, store).prepared == 3
    assert prepare(root, store, conversion=fine).prepared == 3
    assert prepare(root, store, conversion=fine).prepared == 0
    assert prepare(root, store, conversion=Conversion(make_xray=True)).prepared == 3  # back to their own spacing
    assert prepare(root, store).prepared == 0  # all have an X-ray: there was none to make


@pytest.mark.parametrize("value", ["mean", 0, -1.0, [1, 2], [1, 2, "x"], [1, 0, 1], float("nan")])
def test_a_spacing_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"dataset\.spacing"):
        Conversion(spacing=parse_spacing(value))


def test_one_number_is_a_cube():
    assert parse_spacing(1.5) == (1.5, 1.5, 1.5)
    assert parse_spacing([1, 2, 3]) == (1.0, 2.0, 3.0)


def test_a_crop_holds_the_body_and_the_xray_still_shows_its_place(lonely, tmp_path):
    plain, cropped = tmp_path / "plain", tmp_path / "cropped"
    prepare(lonely, plain, conversion=Conversion(make_xray=True))
    conversion = Conversion(make_xray=True, crop_to_body=True)
    for case in prepare(lonely, cropped, conversion=conversion).cases:
        before = next(c for c in VolumeStore(plain).cases if c.patient_id == case.patient_id)
        low, high = before.body_box
        assert case.shape == tuple(b - a for a, b in zip(low, high, strict=True)) != SHAPE
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        np.testing.assert_array_equal(whole(cropped, case), whole(plain, before)[box])
        first = np.array(before.affine) @ [*low[::-1], 1]
        np.testing.assert_allclose(np.array(case.affine)[:, 3], first)
        # the same voxel, counted from either volume's centre, falls on the same pixel
        for inside in (np.array([8, 10, 12]), np.array([15, 18, 22])):
            np.testing.assert_allclose(pixel(case, inside - low), pixel(before, inside), atol=1e-9)


def pixel(case, voxel):
    """(column, row) of a voxel (d, h, w) in the X-ray."""
    return cam.pixels(np.array(case.xray_camera), ((voxel - (np.array(case.shape) - 1) / 2) * case.spacing)[::-1])


@pytest.mark.parametrize("source_mm", [None, 1500.0])
def test_a_ct_without_an_xray_gets_one_that_shows_a_rod_at_its_place(lonely, tmp_path, source_mm):
    store = tmp_path / "store"
    report = prepare(lonely, store, conversion=Conversion(make_xray=True, xray_source_mm=source_mm))
    assert ([case.patient_id for case in report.cases], report.problems) == (["a", "b", "paired"], [])
    made = [(c.xray_synthetic, c.xray_kind, c.xray_source) for c in report.cases]
    assert made == [(True, "drr", "")] * 2 + [(True, "uint16", "paired/x_pa_drr.png")]
    middle = (np.array(SHAPE) - 1) / 2
    expected = (ROD[1] - middle[2]) * 4, (ROD[0] - middle[0]) * 5
    for case in report.cases[:2]:
        np.testing.assert_allclose(brightest(store, case), expected, atol=2.0)
        assert (store / "xrays" / f"{case.patient_id}.b2nd").is_file()


def test_without_make_xray_it_is_a_problem(lonely, tmp_path):
    report = prepare(lonely, tmp_path / "store")
    assert [(p.patient_id, p.found) for p in report.problems] == [
        ("a", "none (a CT without an X-ray)"),
        ("b", "none (a CT without an X-ray)"),
    ]


def test_a_source_within_the_patient_is_reported(lonely, tmp_path):
    report = prepare(lonely, tmp_path / "store", conversion=Conversion(make_xray=True, xray_source_mm=20))
    assert {p.patient_id for p in report.problems} == {"a", "b"}
    assert "outside the volume" in report.problems[0].found
    with pytest.raises(ValueError, match="make_xray_source_mm"):
        Conversion(xray_source_mm=-5)


def test_whatever_changes_the_stored_pair_changes_its_hash(lonely, tmp_path):
    """A latent cache knows its volumes by this hash."""
    conversions = [
        Conversion(make_xray=True),
        Conversion(make_xray=True, xray_source_mm=1500),
        Conversion(make_xray=True, crop_to_body=True),
        Conversion(make_xray=True, spacing=(5.0, 4.0, 4.0)),
    ]
    hashes = [
        {case.patient_id: case.source_hash for case in prepare(lonely, tmp_path / "store", conversion=c).cases}
        for c in conversions
    ]
    assert len({found["a"] for found in hashes}) == 4
    plain, cone, *_ = (found["paired"] for found in hashes)
    assert plain == cone  # its own X-ray stays
    assert plain == prepare(lonely, tmp_path / "store").cases[0].source_hash


def test_xrays_that_were_to_be_made_otherwise_are_spoken_of(lonely, tmp_path, caplog):
    store = tmp_path / "store"
    prepare(lonely, store)
    check_conversion(store, Conversion())
    assert caplog.text == ""
    check_conversion(store, Conversion(make_xray=True))
    assert "was prepared with false" in caplog.text
    prepare(lonely, store, conversion=Conversion(make_xray=True))
    caplog.clear()
    check_conversion(store, Conversion(make_xray=True))
    check_conversion(store, Conversion())
    assert caplog.text == ""
    check_conversion(store, Conversion(make_xray=True, xray_source_mm=1700))
    assert "source 1700 mm" in caplog.text


def test_latents_of_another_spacing_are_refused_with_both_named(root, tmp_path):
    old, new = (prepare(root, tmp_path / "store", conversion=of_spacing(s, s, s)).cases for s in (5.0, 8.0))
    source = LatentSource("codec", "encoder", (-1000.0, 1000.0))
    writer = LatentWriter(tmp_path / "latents", source, {})
    for case in old:
        tiles = [((0, 0, 0), torch.zeros(2, 3, 3, 3))]
        writer.write(case, (3, 3, 3), tiles)
        writer.write_xray(case, XrayFeatures(torch.zeros(1, 2), torch.zeros(2)))
    writer.finish(old)
    LatentCache(tmp_path / "latents", source, old, [(3, 3, 3)] * 3, {})
    with pytest.raises(ValueError, match=r"does not fit volume p0.*5\.0, 5\.0, 5\.0.*there.*8\.0, 8\.0, 8\.0"):
        LatentCache(tmp_path / "latents", source, new, [(3, 3, 3)] * 3, {})
    assert not any(writer.is_written(case, (3, 3, 3)) for case in new)


def test_training_refuses_a_spacing_that_the_store_does_not_have(root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store, conversion=of_spacing(8.0, 8.0, 8.0))
    for fits in (Conversion(), of_spacing(8.0, 8.0, 8.0), Conversion(make_xray=True)):
        check_conversion(store, fits)
    with pytest.raises(ValueError, match=r"dataset\.spacing=\[1\.0, 1\.0, 1\.0\].*prepared with \[8\.0, 8\.0, 8\.0\]"):
        check_conversion(store, of_spacing(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"dataset\.crop_to_body=true.*prepared with false"):
        check_conversion(store, Conversion(crop_to_body=True))
    with pytest.raises(ValueError, match=r"dataset\.spacing=\"median\""):
        check_conversion(store, Conversion(spacing="median"))
    prepare(root, store, conversion=Conversion(spacing="median"))
    check_conversion(store, Conversion(spacing="median"))


def test_a_command_that_asks_for_another_spacing_stops(tiny_data, refused, elsewhere):
    message = refused(train_vqgan_patches_4gpu, *tiny_data.vqgan, "dataset.spacing=2", "check=true")
    assert "dataset.spacing=[2.0, 2.0, 2.0], but" in message


def test_preparing_anew_is_announced(root, tmp_path, caplog):
    prepare(root, tmp_path / "store", conversion=of_spacing(8.0, 8.0, 8.0))
    assert "anew" not in caplog.text
    prepare(root, tmp_path / "store")
    assert "spacing was [8.0, 8.0, 8.0], now None; its cases are prepared anew" in caplog.text


def test_the_commands_settings_reach_the_store(lonely, tmp_path):
    settings = ["dataset.spacing=[6,8,8]", "dataset.crop_to_body=true", "dataset.make_xray=true"]
    run(
        prepare_data,
        f"dataset.root={lonely}",
        f"dataset.store={tmp_path}/store",
        "dataset.prepare_workers=0",
        *settings,
    )
    cases = VolumeStore(tmp_path / "store").cases
    assert [(case.patient_id, case.spacing) for case in cases] == [(n, (6, 8, 8)) for n in ("a", "b", "paired")]
    assert all(case.shape[2] < 14 for case in cases)
    assert np.linalg.det(np.array(cases[0].affine)) == pytest.approx(abs(np.linalg.det(AFFINE)) / 80 * 384)

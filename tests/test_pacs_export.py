"""A folder tree as a PACS exports it is prepared by one command."""

import numpy as np
import pytest
from pydicom.uid import MediaStorageDirectoryStorage, XRayRadiationDoseSRStorage

import prepare_data
from common.errors import UserError
from dataset.prepare.conversion import Conversion
from dataset.prepare.conversion_file import check_conversion
from dataset.prepare.run import prepare
from dataset.scans.reading import Reading
from dataset.scans.xray_io import write_xray
from dataset.store.store import VolumeStore
from tests.damage import SHAPE, Patient
from tests.dicom_files import dataset, write_stack
from tests.tiny import run

STUDIES = 4


def places(count, step):
    return np.array([[-60.0, -70.0, step * i] for i in range(count)])


def export(root, name, seed):
    """One patient's folder: a study with all that a scanner sends, a CD's viewer, a film. Returns the thin soft HU."""
    hu = Patient(root, seed, "", "").hu()
    study = root / name / "ST000001"
    pixels = {"PixelSpacing": [5.0, 6.0]}
    scout = {"SeriesNumber": 1, "SeriesDescription": "Topogram", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_stack(study / "SE000001", hu[:1], places(1, 7.0), f"1.{seed}.1", "IM", **pixels | scout)
    bolus = {"SeriesNumber": 2, "SeriesDescription": "Monitoring", "AcquisitionNumber": lambda i: i}
    write_stack(study / "SE000002", hu, places(len(hu), 0.0), f"1.{seed}.2", "IM", **pixels | bolus)
    thick = {"SeriesNumber": 3, "SeriesDescription": "Thorax 14.0", "ConvolutionKernel": "B31f"}
    write_stack(
        study / "SE000003", hu[: SHAPE[0] : 2], places(SHAPE[0] // 2, 14.0), f"1.{seed}.3", "IM", **pixels | thick
    )
    thin = {"SeriesNumber": 4, "SeriesDescription": "Thorax 7.0", "ConvolutionKernel": "B31f"}
    write_stack(study / "SE000004", hu, places(len(hu), 7.0), f"1.{seed}.4", "IM", **pixels | thin)
    for path, tags in (
        (study / "SE000005" / "IM000001", {"Modality": "SR", "SOPClassUID": XRayRadiationDoseSRStorage}),
        (study / "DICOMDIR", {"Modality": None, "SOPClassUID": MediaStorageDirectoryStorage}),
    ):
        path.parent.mkdir(exist_ok=True)
        item = dataset(hu[0], **tags)
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
        item.save_as(path, enforce_file_format=True)
    for path in (study / "VIEWER.EXE", study / "INDEX.HTM", root / name / "VIEWER" / "run.bak"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"MZ\x90\x00" * 200)
    film = np.random.default_rng(seed).random((96, 80))
    write_xray(root / name / f"{name}_pa_drr.png", film, None, synthetic=True)
    return hu


@pytest.fixture
def pacs(tmp_path):
    return tmp_path / "pacs", {f"p{seed}": export(tmp_path / "pacs", f"p{seed}", seed) for seed in range(STUDIES)}


def test_one_command_prepares_it(pacs, elsewhere):
    root, made = pacs
    run(prepare_data, f"dataset.root={root}", "dataset.series=thinnest", "dataset.prepare_workers=0")
    store = VolumeStore(root / "store")
    assert [case.patient_id for case in store.cases] == sorted(made)
    for case in store.cases:
        np.testing.assert_array_equal(store.read_hu(case, (0, 0, 0), case.shape), made[case.patient_id])
        assert case.spacing == pytest.approx((7, 5, 6))
    report = (root / "store" / "report.txt").read_text()
    assert report.count("one of 2 series by thinnest: series 4 'Thorax 7.0', kernel B31f: 20 slices") == STUDIES
    assert report.count("passed over: 20 in short series, 2 no DICOM, 1 of modality SR, 1 pages") == STUDIES


def test_what_was_passed_over_is_no_problem(pacs, elsewhere):
    root, _ = pacs
    given = "dataset.series=thinnest", "dataset.prepare_workers=0", "dataset.pair_check=off", "strict=true"
    run(prepare_data, f"dataset.root={root}", *given)
    report = (root / "store" / "report.txt").read_text()
    assert f"{STUDIES} good cases, 0 left out, 0 problems, {STUDIES} notes" in report
    assert report.count("(a note)") == STUDIES


def test_without_a_choice_the_report_says_how_to_choose_and_a_column_of_the_table_may(pacs, tmp_path):
    root, made = pacs
    with pytest.raises(UserError, match=r"series 3 'Thorax 14\.0'.*series 4 'Thorax 7\.0'.*dataset\.series=3"):
        prepare(root, tmp_path / "store")
    rows = [f"{name},{name}/ST000001,{name}/{name}_pa_drr.png,{3 + i % 2}" for i, name in enumerate(sorted(made))]
    (root / "pairs.csv").write_text("\n".join(["patient_id,ct,xray,series", *rows]))
    cases = prepare(root, tmp_path / "store").cases
    assert [case.shape[0] for case in cases] == [SHAPE[0] // 2, SHAPE[0]] * 2


def test_another_choice_prepares_anew_and_training_holds_to_the_one_that_was_made(pacs, tmp_path):
    root, store = pacs[0], tmp_path / "store"
    thin, thick = (Conversion(reading=Reading(series=series)) for series in ("thinnest", "3"))
    hashes = []
    for wanted, anew in ((thin, STUDIES), (thin, 0), (thick, STUDIES)):
        report = prepare(root, store, conversion=wanted)
        assert report.prepared == anew
        hashes.append([case.source_hash for case in report.cases])
    assert hashes[0] == hashes[1]
    assert not set(hashes[1]) & set(hashes[2])
    check_conversion(store, Conversion())
    check_conversion(store, thick)
    with pytest.raises(UserError, match=r'dataset\.series="thinnest", but .* was prepared with "3"'):
        check_conversion(store, thin)
    (store / "conversion.json").write_text('{"spacing": null, "crop_to_body": false}')  # of earlier versions
    check_conversion(store, Conversion())
    with pytest.raises(UserError, match="was prepared with null"):
        check_conversion(store, thin)

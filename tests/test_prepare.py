import hashlib
import json
import os

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dataset.prepare import examine, one_case
from dataset.prepare.cases import find_cases
from dataset.prepare.run import prepare
from dataset.scans.volume_io import read_ct, write_ct
from dataset.scans.xray_io import read_xray, write_xray
from dataset.store.records import source_hash
from dataset.store.store import VolumeStore
from tests.dicom_files import NAME, write_series
from tests.pairs import AFFINE, SHAPE, add_case, thorax


@pytest.fixture
def root(tmp_path):
    for seed in range(5):
        add_case(tmp_path / "data", f"p{seed}", seed, axes=["LPS", "LAS", "RAS", "SLP", "PIR"][seed])
    return tmp_path / "data"


def assert_stored(root, store):
    """Every case of the manifest reads back as its sources do."""
    opened = VolumeStore(store)
    for case in opened.cases:
        source = read_ct(root / case.ct_source)
        np.testing.assert_array_equal(opened.read_hu(case, (0, 0, 0), case.shape), source.hu)
        np.testing.assert_array_equal(case.affine, source.affine)
        assert case.spacing == source.spacing
        assert (case.source_axes, case.xray_synthetic) == (source.source_axes, True)
        xray = read_xray(root / case.xray_source)
        low, high = np.percentile(xray.image, (0.5, 99.5))
        assert case.xray_percentiles == pytest.approx((low, high))
    return opened


def test_nifti_to_store_to_nifti_is_identical(root, tmp_path):
    report = prepare(root, tmp_path / "store")
    assert (len(report.cases), report.problems, report.prepared) == (5, [], 5)
    opened = assert_stored(root, tmp_path / "store")
    for case in opened.cases:
        copy = tmp_path / "copy.nii.gz"
        hu = opened.read_hu(case, (0, 0, 0), case.shape)
        write_ct(copy, hu, np.array(case.affine), case.source_axes)
        back, source = read_ct(copy), read_ct(root / case.ct_source)
        np.testing.assert_array_equal(back.hu, source.hu)
        np.testing.assert_array_equal(back.source_affine, source.source_affine)
        np.testing.assert_array_equal(back.source_affine, case.source_affine)


def test_processes_give_the_same_manifest_as_none(root, tmp_path):
    prepare(root, tmp_path / "alone")
    prepare(root, tmp_path / "together", num_workers=2)
    for name in ("manifest.jsonl", "splits.json"):
        assert (tmp_path / "together" / name).read_text() == (tmp_path / "alone" / name).read_text()
    assert_stored(root, tmp_path / "together")


def test_an_unchanged_case_is_not_prepared_again(root, tmp_path, monkeypatch):
    store = tmp_path / "store"
    prepare(root, store)
    add_case(root, "p9", 9)
    os.utime(root / "p1" / "p1.nii.gz", (1, 1))  # a new time, the same content
    write_ct(root / "p2" / "p2.nii.gz", thorax(22), AFFINE)
    (store / "volumes" / "p3.b2nd").unlink()
    read = []

    def noting(path, reading):
        read.append(path.name)
        return read_ct(path, reading)

    monkeypatch.setattr(examine, "read_ct", noting)
    report = prepare(root, store)
    assert sorted(read) == ["p2.nii.gz", "p3.nii.gz", "p9.nii.gz"]
    assert len(report.cases) == 6
    assert_stored(root, store)
    assert prepare(root, store).prepared == 0


def test_an_interrupted_run_goes_on_and_leaves_no_half_file(root, tmp_path, monkeypatch):
    store = tmp_path / "store"

    def stop_at_p3(folder, patient_id, *others):
        if patient_id == "p3":
            raise KeyboardInterrupt
        write_square_xray(folder, patient_id, *others)

    write_square_xray = one_case.write_square_xray
    monkeypatch.setattr(one_case, "write_square_xray", stop_at_p3)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, store)
    assert not (store / "manifest.jsonl").exists()
    monkeypatch.undo()
    report = prepare(root, store)
    assert (len(report.cases), report.prepared) == (5, 2)
    assert_stored(root, store)
    assert not [path for path in store.rglob("*") if path.name.startswith(".tmp")]


def test_bad_cases_are_left_out_and_all_reported_together(root, tmp_path):
    store = tmp_path / "store"
    damage(root)
    report = prepare(root, store)
    assert [case.patient_id for case in report.cases] == ["p0", "p1", "p2", "p3"]
    fatal = {problem.patient_id: problem.found for problem in report.problems if problem.fatal}
    assert fatal.keys() == {"blank", "constant", "copy", "cut", "lateral", "nan", "p4", "pair", "raw", "text"}
    text = (store / "report.txt").read_text()
    assert text.startswith("4 good cases, 10 left out")
    for problem in report.problems:
        assert problem.rule in text
        assert problem.remedy in text
    with pytest.raises(ValueError, match="that of copy, p4"):
        prepare(root, store, strict=True)
    assert {case.patient_id for case in VolumeStore(store).cases} == {"p0", "p1", "p2", "p3"}


def damage(root):
    """One new case for each kind of damage, and one that is good but has long voxels."""
    names = ("cut", "text", "nan", "constant", "raw", "blank", "lateral", "pair")
    for seed, name in enumerate(names, start=50):
        add_case(root, name, seed)
    ct = {name: root / name / f"{name}.nii.gz" for name in names}
    xray = {name: root / name / "x_pa_drr.png" for name in names}
    ct["cut"].write_bytes(ct["cut"].read_bytes()[:-100])
    xray["text"].write_text("no image")
    write_ct(ct["constant"], np.zeros(SHAPE), AFFINE)
    write_ct(ct["raw"], thorax(60) + 1024, AFFINE)
    write_xray(xray["blank"], np.full((80, 96), 0.5), None, synthetic=False)
    write_xray(xray["lateral"], np.random.default_rng(0).random((200, 100)), None, synthetic=False)
    xray["pair"].unlink()
    put_nan(ct["nan"])
    (root / "copy").mkdir()
    write_ct(root / "copy" / "copy.nii.gz", thorax(4), AFFINE, "RAI")  # p4 in other axes
    write_xray(root / "copy" / "x_pa_drr.png", np.random.default_rng(77).random((80, 96)), None, synthetic=False)
    write_ct(root / "p3" / "p3.nii.gz", thorax(3), np.diag([-2.0, -2.0, 25.0, 1.0]))


def put_nan(path):
    hu = thorax(1).astype(np.float32)
    hu[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(hu.T, AFFINE), path)


def test_no_good_case_is_an_error_with_the_table(tmp_path):
    add_case(tmp_path / "data", "p", 0)
    (tmp_path / "data" / "p" / "x_pa_drr.png").write_text("no image")
    with pytest.raises(ValueError, match=r"0 good cases(.|\n)*p/x_pa_drr\.png"):
        prepare(tmp_path / "data", tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.jsonl").exists()


def test_a_repaired_case_comes_back_to_its_split(root, tmp_path):
    store = tmp_path / "store"
    first = {case.patient_id: case.split for case in prepare(root, store).cases}
    assert sorted(first.values()) == ["train"] * 4 + ["val"]
    val = next(name for name, split in first.items() if split == "val")
    whole = (root / val / f"{val}.nii.gz").read_bytes()
    (root / val / f"{val}.nii.gz").write_bytes(whole[:-100])
    assert val not in {case.patient_id for case in prepare(root, store).cases}
    (root / val / f"{val}.nii.gz").write_bytes(whole)
    add_case(root, "new", 30)
    second = {case.patient_id: case.split for case in prepare(root, store).cases}
    assert {name: second[name] for name in first} == first


def test_the_split_and_label_of_pairs_csv_win(root, tmp_path):
    store = tmp_path / "store"
    before = {case.patient_id: case.split for case in prepare(root, store).cases}
    train = next(name for name, split in before.items() if split == "train")
    rows = [f"{n},{n}/{n}.nii.gz,{n}/x_pa_drr.png,{'test' if n == train else ''},1" for n in before]
    (root / "pairs.csv").write_text("\n".join(["patient_id,ct,xray,split,target", *rows]))
    report = prepare(root, store)
    assert report.prepared == 0
    assert {case.patient_id: case.split for case in report.cases} == before | {train: "test"}
    assert {case.target for case in report.cases} == {1.0}


def test_no_tag_of_a_dicom_source_reaches_the_store(root, tmp_path):
    values = np.stack([plane + 1024 for plane in thorax(40)])
    write_series(root / "p8" / "series", values)
    write_xray(root / "p8" / "x_pa_drr.png", np.random.default_rng(8).random((80, 96)), None, synthetic=False)
    item = pydicom.dcmread(next((root / "p8" / "series").iterdir()))
    assert item.PatientName == NAME
    report = prepare(root, tmp_path / "store")
    assert "p8" in {case.patient_id for case in report.cases}
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or b"Planted" not in path.read_bytes()


def test_a_hidden_file_beside_the_slices_changes_no_case(tmp_path):
    root = tmp_path / "data"
    folder = write_series(root / "p8" / "series", np.stack([plane + 1024 for plane in thorax(40)]))
    write_xray(root / "p8" / "x_pa_drr.png", np.random.default_rng(8).random((80, 96)), None, synthetic=False)
    ((case,), _) = find_cases(root, None, "*_pa_drr.png")
    digest = hashlib.sha256()  # names, sizes and contents, as ever
    for path in [*sorted(folder.iterdir()), root / "p8" / "x_pa_drr.png", root / "p8" / "x_pa_drr.json"]:
        digest.update(path.name.encode() + f" {path.stat().st_size}\n".encode() + path.read_bytes())
    assert source_hash(case) == digest.hexdigest()
    before = prepare(root, tmp_path / "store").cases
    (folder / ".DS_Store").write_bytes(b"\0" * 200)
    assert source_hash(case) == digest.hexdigest()
    again = prepare(root, tmp_path / "store")
    assert (again.prepared, again.cases) == (0, before)


def test_an_unreadable_source_is_reported_and_tried_again(root, tmp_path, monkeypatch):
    def fail(case):
        raise PermissionError(13, "Permission denied", str(case.ct))

    monkeypatch.setattr(one_case, "source_stamp", fail)
    with pytest.raises(ValueError, match=r"p0\.nii\.gz.*Permission denied"):
        prepare(root, tmp_path / "store")
    monkeypatch.undo()
    assert len(prepare(root, tmp_path / "store").cases) == 5


def test_the_manifest_is_plain_json_by_line(root, tmp_path):
    prepare(root, tmp_path / "store")
    lines = [json.loads(line) for line in (tmp_path / "store" / "manifest.jsonl").read_text().splitlines()]
    assert [line["patient_id"] for line in lines] == ["p0", "p1", "p2", "p3", "p4"]
    assert lines[0]["shape"] == list(SHAPE)
    assert len(lines[0]["source_hash"]) == 64

"""A disk, network or memory that fails while a case is read: the case is tried again, not called damaged."""

import errno
import os
from pathlib import Path

import pydicom
import pytest

from common.errors import of_the_machine
from dataset.prepare import examine
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.scans import nifti_io
from tests import damage

ERRORS = {
    "io": OSError(errno.EIO, os.strerror(errno.EIO)),
    "stale": OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    "memory": MemoryError(),
}


def failing(reader, patient, error, when):
    """`reader`, which fails on the patient's files if its keywords satisfy `when`."""

    def read(*arguments, **keywords):
        if any(isinstance(a, Path) and a.is_relative_to(patient.folder) for a in arguments) and when(keywords):
            raise error
        return reader(*arguments, **keywords)

    return read


def fail_nifti(patient, patch, error):
    patch.setattr(nifti_io, "_check_end", failing(nifti_io._check_end, patient, error, lambda _: True))


def fail_headers(patient, patch, error):
    dcmread = failing(pydicom.dcmread, patient, error, lambda keywords: "stop_before_pixels" in keywords)
    patch.setattr(pydicom, "dcmread", dcmread)


def fail_pixels(patient, patch, error):
    dcmread = failing(pydicom.dcmread, patient, error, lambda keywords: "stop_before_pixels" not in keywords)
    patch.setattr(pydicom, "dcmread", dcmread)


def fail_film(patient, patch, error):
    damage.film_dicom(1, {}, patient, None)
    fail_pixels(patient, patch, error)


FAULTS = {
    "nifti": (damage.write_nifti_patient, fail_nifti),
    "dicom_headers": (damage.write_dicom_patient, fail_headers),
    "dicom_voxels": (damage.write_dicom_patient, fail_pixels),
    "dicom_film": (damage.write_nifti_patient, fail_film),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_case_that_could_not_be_read_is_prepared_by_the_next_run(kind, error, tmp_path, monkeypatch):
    root, store = tmp_path / "data", tmp_path / "store"
    write, fail = FAULTS[kind]
    damage.write_nifti_patient(root, "other", 1)
    patient = write(root, "p", 0)
    with monkeypatch.context() as patch:
        fail(patient, patch, ERRORS[error])
        report = prepare(root, store)
        assert [case.patient_id for case in FileStore(root).cases] == ["other"]
    assert [case.patient_id for case in report.cases] == ["other"]
    (problem,) = report.problems
    assert problem.found == ("too little memory" if error == "memory" else ERRORS[error].strerror)
    assert "run this again" in problem.remedy
    again = prepare(root, store)
    assert (len(again.cases), again.problems, again.prepared) == (2, [], 1)


def test_want_of_memory_while_a_case_is_converted_does_not_stop_the_others(tmp_path, monkeypatch):
    root, store = tmp_path / "data", tmp_path / "store"
    damage.write_nifti_patient(root, "other", 1)
    small = damage.write_nifti_patient(root, "p", 0)
    damage.save(small, small.hu()[:-1])

    def convert(volume, xray, _):
        if len(volume.hu) < damage.SHAPE[0]:
            raise MemoryError
        return volume, xray

    with monkeypatch.context() as patch:
        patch.setattr(examine, "convert", convert)
        report = prepare(root, store)
    assert [(p.patient_id, p.found) for p in report.problems] == [("p", "too little memory")]
    assert len(prepare(root, store).cases) == 2


def test_a_seek_to_where_a_damaged_header_points_is_the_files_fault():
    assert of_the_machine(OSError(errno.EIO, ""))
    assert of_the_machine(MemoryError())
    assert not any(map(of_the_machine, [OSError(errno.EINVAL, ""), OSError("Expected 9 bytes"), EOFError()]))

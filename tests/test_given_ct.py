"""A CT that is given to a command without the data set's settings: what it is told to do names none of them."""

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import sample_ddpm_patches
from common.errors import BadFileError
from dataset.scans.volume_io import read_ct, read_given_ct
from import_vqgan import _volume
from pipeline.sampling.ct_sampler import Placement
from pipeline.sampling.file_pairs import FilePairs
from pipeline.sampling.masks import MaskFolder
from tests.dicom_files import write_stack

HU = np.zeros((12, 10, 10), np.int16)
EVEN = np.array([[0.0, 0.0, 3.0 * i] for i in range(12)])
TILTED = np.array([[-0.7, 0, 0, 0], [0, -0.7, 0.2, 0], [0, -0.2, 0.7, 0], [0, 0, 0, 1]])


def several(folder):
    for number in (2, 3):
        write_stack(folder, HU + number, EVEN, f"1.2.{number}", f"n{number}_", SeriesNumber=number)
    return folder


def uneven(folder):
    return write_stack(folder, HU, np.delete(np.vstack([EVEN, EVEN[-1:] + [0, 0, 3]]), 4, axis=0))


def unscaled(folder):
    return write_stack(folder, HU, EVEN, RescaleSlope="")


def tilted(folder):
    path = folder.with_suffix(".nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((40, 41, 42), np.int16), TILTED), path)
    return path


FAULTS = {
    several: ("dataset.series=2", "pairs.csv", "one of them into a folder of its own"),
    uneven: ("dataset.irregular=resample", "dataset", "complete and alone"),
    unscaled: ("dataset.hu_offset=0", "dataset", "complete and alone"),
    tilted: ("dataset.tilt=resample", "dataset", "a tool that corrects"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_remedy_names_settings_only_where_they_are(tmp_path, fault):
    path = fault(tmp_path / "ct")
    setting, left_out, instead = FAULTS[fault]
    with pytest.raises(BadFileError) as caught:
        read_ct(path)
    assert setting in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    for read in (read_given_ct, Placement.like, lambda given: _volume(given, (-1000, 1000))):
        with pytest.raises(BadFileError, match=instead) as caught:
            read(path)
        remedy = caught.value.remedy
        assert "dataset." not in remedy
        assert left_out not in remedy


def test_a_ct_that_is_fine_is_read_as_ever(tmp_path):
    folder = write_stack(tmp_path / "ct", HU + 7, EVEN)
    np.testing.assert_array_equal(read_given_ct(folder).hu, read_ct(folder).hu)


def test_drawn_cts_and_masks_likewise(tmp_path):
    for folder in ("real", "generated"):
        tilted(tmp_path / folder / "p")
    readers = (
        lambda: FilePairs.find(tmp_path / "generated", tmp_path / "real").read("p", (-1000, 1000)),
        lambda: MaskFolder(tmp_path)._volume(tmp_path / "real" / "p.nii.gz"),
    )
    for read in readers:
        with pytest.raises(BadFileError, match=r"right angles.*Set it upright with a tool"):
            read()


def test_sampling_says_what_can_be_done_with_a_reference_of_two_series(workshop, elsewhere, refused):
    given = [f"xray={workshop.xray}", f"ckpt={workshop.ddpm_ckpt}", "output=ct.nii.gz", "steps=1"]
    message = refused(sample_ddpm_patches, *given, f"reference={several(Path('pacs'))}")
    assert "series 2: 12 slices" in message
    assert "folder of its own, and give that" in message
    assert "dataset.series" not in message

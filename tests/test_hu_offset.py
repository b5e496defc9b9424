"""What is added to a CT's values to reach HU, for every format; and rescale tags that are not there."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.config import disable_value_validation

from common.errors import BadFileError
from dataset.prepare.case_table import cases_of_table
from dataset.prepare.conversion import Conversion
from dataset.scans.reading import Reading
from dataset.scans.volume_io import read_ct
from tests.dicom_files import write_series


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1024, 1500, (12, 8, 6)).astype(np.int16)


@pytest.mark.parametrize("kind", ["dicom", "ct.nii.gz", "ct.mha", "ct.nrrd"])
def test_an_offset_is_added_whatever_the_format(tmp_path, hu, kind):
    path, shifted = tmp_path / kind, hu + 8192
    if kind == "dicom":
        write_series(path, shifted + 1024)
    elif kind == "ct.nii.gz":
        nib.save(nib.Nifti1Image(shifted.T, np.diag([-0.7, -0.7, 2, 1])), path)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(shifted), str(path))
    np.testing.assert_array_equal(read_ct(path).hu, shifted)
    np.testing.assert_array_equal(read_ct(path, Reading(hu_offset=-8192.0)).hu, hu)


@pytest.mark.parametrize("empty", [None, "", "  "])
@pytest.mark.parametrize("tags", [("RescaleIntercept",), ("RescaleSlope",), ("RescaleSlope", "RescaleIntercept")])
def test_missing_rescale_tags_are_named_and_may_be_made_up_for(tmp_path, hu, tags, empty):
    for path in write_series(tmp_path / "ct", hu, RescaleIntercept=0).iterdir():
        item = pydicom.dcmread(path)
        for tag in tags:
            delattr(item, tag)
            if empty is not None:  # there, but without a value
                with disable_value_validation():
                    setattr(item, tag, empty)
        item.save_as(path)
    with pytest.raises(BadFileError, match=rf"a slice without {tags[0]}.*dataset\.hu_offset=0"):
        read_ct(tmp_path / "ct")
    for offset in (0.0, -24.0):
        np.testing.assert_array_equal(read_ct(tmp_path / "ct", Reading(hu_offset=offset)).hu, hu + int(offset))


def test_a_column_of_the_table_wins_over_the_setting(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.nii").touch()
        (tmp_path / f"{name}.png").touch()
    rows = ["patient_id,ct,xray,hu_offset", "a,a.nii,a.png,-8192", "b,b.nii,b.png,", "c,c.nii,c.png,lots"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    cases, (problem,) = cases_of_table(tmp_path, make_xray=False)
    wish = Conversion(reading=Reading(hu_offset=5.0))
    assert [wish.reading_of(case).hu_offset for case in cases] == [-8192, 5]
    assert (problem.patient_id, problem.rule) == ("c", "hu_offset is a number or empty")

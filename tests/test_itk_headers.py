"""What headers of MetaImage and NRRD files say beside what SimpleITK reads of them."""

import re

import numpy as np
import pytest
import SimpleITK

from common.errors import BadFileError
from dataset.scans.reading import Reading
from dataset.scans.volume_io import ct_spacing, read_ct

HU = np.random.default_rng(0).integers(-1024, 1500, (6, 7, 8)).astype(np.int16)
SPACING = (0.7, 0.8, 2.5)  # x, y, z; mm


def write(path, line, unit_mm=1.0, hu=HU):
    """A file whose numbers of length are in a unit, with a line more in its header."""
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing([size / unit_mm for size in SPACING])
    image.SetOrigin([100 / unit_mm, 50 / unit_mm, 0])
    SimpleITK.WriteImage(image, str(path))
    content, mark = path.read_bytes(), b"ElementDataFile" if path.suffix == ".mha" else b"kinds:"
    path.write_bytes(content.replace(mark, line.encode() + b"\n" * bool(line) + mark, 1))
    return path


@pytest.mark.parametrize("unit", [("cm", 10.0), ("um", 0.001), ("mm", 1.0)])
@pytest.mark.parametrize(
    ("name", "line"), [("a.mha", "DistanceUnits = {0}"), ("a.nrrd", 'space units: "{0}" "{0}" "{0}"')]
)
def test_lengths_are_read_in_the_unit_that_is_told(tmp_path, name, line, unit):
    path = write(tmp_path / name, line.format(unit[0]), unit[1])
    volume = read_ct(path)
    assert volume.spacing == pytest.approx(SPACING[::-1])
    assert ct_spacing(path) == pytest.approx(SPACING[::-1])
    np.testing.assert_allclose(volume.affine[:3, 3], [-100, -50, 0], atol=1e-9)
    assert [note.rule for note in volume.notes] == ["a CT's lengths are in mm"] * (unit[1] != 1)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.mha", "DistanceUnits = inches"),
        ("a.nrrd", 'space units: "mm" "mm" "cm"'),
        ("a.nrrd", 'space units: "m" "m" "m"'),
    ],
)
def test_units_that_are_none_or_cannot_be_are_refused(tmp_path, name, line):
    with pytest.raises(BadFileError, match="lengths are in mm"):
        read_ct(write(tmp_path / name, line, 0.01))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (0.5, 0.0), (2.0, -1000.0)])
def test_numbers_that_a_header_scales_become_hu(tmp_path, slope, intercept):
    stored = np.rint((HU - intercept) / slope).astype(np.int16)
    line = f"ElementToIntensityFunctionSlope = {slope}\nElementToIntensityFunctionOffset = {intercept}"
    path = write(tmp_path / "a.mha", line, hu=stored)
    volume = read_ct(path)
    np.testing.assert_allclose(volume.hu, stored * slope + intercept, atol=0.5)
    (note,) = volume.notes
    assert note.doubtful
    np.testing.assert_allclose(read_ct(path, Reading(hu_offset=7)).hu, volume.hu + 7, atol=1)


def test_a_scale_that_changes_nothing_is_nothing_to_tell(tmp_path):
    line = "ElementToIntensityFunctionSlope = 1\nElementToIntensityFunctionOffset = 0"
    assert read_ct(write(tmp_path / "a.mha", line)).notes == ()


def test_sizes_that_are_missing_are_told(tmp_path):
    path = write(tmp_path / "a.mha", "")
    path.write_bytes(re.sub(rb"ElementSpacing = .*\n", b"", path.read_bytes()))
    (note,) = read_ct(path).notes
    assert note.doubtful
    assert "no ElementSpacing: 1 mm" in note.found
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile", b"ElementSize = 0.7 0.8 2.5\nElementDataFile"))
    volume = read_ct(path)
    assert volume.notes == ()
    assert volume.spacing == pytest.approx(SPACING[::-1])

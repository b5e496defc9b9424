"""Values that are no HU are told by what they look like, with the offset that makes HU of them."""

import numpy as np
import pytest

from dataset.prepare.checks import check_volume
from dataset.prepare.conversion import Conversion
from dataset.prepare.run import prepare
from dataset.scans.reading import Reading
from dataset.scans.volume_io import Volume, write_ct
from tests.pairs import AFFINE, add_case, thorax


def problems_of(hu):
    return check_volume("p", "ct", Volume(hu, AFFINE, "LPS", AFFINE), hu, (-1000.0, 1000.0))


@pytest.mark.parametrize(
    ("shift", "said"), [(8192, "CT-RATE"), (1024, "intercept is not applied"), (-1024, "rescaled twice")]
)
def test_a_shifted_scale_is_named_and_the_offset_mends_it(tmp_path, shift, said):
    (problem,) = problems_of(thorax(0) + np.int16(shift))
    assert said in problem.found
    assert f"dataset.hu_offset={-shift}," in problem.remedy
    add_case(tmp_path / "data", "p", 0)
    write_ct(tmp_path / "data" / "p" / "p.nii.gz", thorax(0) + np.int16(shift), AFFINE)
    report = prepare(tmp_path / "data", tmp_path / "s", conversion=Conversion(reading=Reading(hu_offset=-shift)))
    assert report.problems == []


@pytest.mark.parametrize("bits", [12, 13, 14])
def test_a_lost_sign_is_named(bits):
    (problem,) = problems_of((thorax(0).astype(np.int32) % 2**bits).astype(np.int16))
    assert f"a sign of {bits} bits lost" in problem.found


@pytest.mark.parametrize("hu", [thorax(0) * 3 + 500, np.where(thorax(0) > -200, 1500, -900).astype(np.int16)])
def test_what_is_like_nothing_known_is_only_refused(hu):
    (problem,) = problems_of(hu)
    assert ";" not in problem.found
    assert "hu_offset" not in problem.remedy

"""Where a case is drawn and compared."""

import numpy as np
import pytest

from dataset.store.store import VolumeStore
from pipeline.sampling.ct_sampler import Placement
from pipeline.sampling.evaluated_field import Field

MEDIAN = Placement.centred((20, 18, 22), (10.0, 12.0, 11.0))


@pytest.fixture
def case(tiny_data):
    return VolumeStore(tiny_data.store).cases[0]


@pytest.mark.parametrize("median", [None, MEDIAN], ids=["own", "median"])
def test_the_real_ct_keeps_its_bone_on_either_grid(case, median):
    """Scores clip HU, each to its own window."""
    bone = np.full(case.shape, 1400, np.int16)
    np.testing.assert_allclose(Field.of(case, median).of_real(bone, (-1000, 1000)), 1400, rtol=1e-4)

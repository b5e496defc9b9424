"""A drawn CT and the real one of the same patient, on one grid."""

from dataclasses import dataclass

from numpy.typing import NDArray

from common.geometry import Spacing
from dataset.scans.volume_io import read_ct
from dataset.store.store import StoredCase
from pipeline.sampling.evaluated_cases import Evaluation
from pipeline.sampling.evaluated_field import Field


@dataclass(frozen=True)
class Pair:
    """drawn, real: HU (D, H, W) of one shape, for scores to clip. spacing: (d, h, w) in mm.

    drawn_affine, real_affine: (4, 4), their voxels (w, h, d) → RAS mm, each in the world of the file that it is from.
    """

    drawn: NDArray
    real: NDArray
    spacing: Spacing
    drawn_affine: NDArray
    real_affine: NDArray


def drawn_pair(evaluation: Evaluation, case: StoredCase) -> Pair:
    """Of a case that was drawn; of several CTs per X-ray the first."""
    field = Field.of(case, evaluation.median)
    real = field.of_real(evaluation.store.read_hu(case, (0, 0, 0), case.shape), evaluation.model.hu_window)
    drawn = field.of_drawn(read_ct(evaluation.volumes(case)[0]).hu)
    return Pair(drawn, real, field.grid.spacing, field.affine, field.affine)

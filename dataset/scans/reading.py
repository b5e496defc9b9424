"""What a user decides about reading a CT, and what reading it has to tell."""

from dataclasses import dataclass
from typing import NamedTuple

from common.errors import UserError
from dataset.scans.lost_affine import told_affine

REFUSE, RESAMPLE = "refuse", "resample"


@dataclass(frozen=True)
class Reading:
    """How a CT is read where its files leave a choice.

    series: which of several in a DICOM folder: number, UID, pattern of the description, thinnest, largest or softest.
    irregular: slices of uneven steps are refused, or interpolated to the commonest step ("resample").
    tilt: axes that are not at right angles are refused, or the CT is sheared upright ("resample").
    hu_offset: added to every value; given, a DICOM slice may lack its rescale tags.
    axes: where those of a CT run whose header has lost it (dataset/scans/lost_affine.py), and its voxels' sizes.
    """

    series: str | None = None
    irregular: str = REFUSE
    tilt: str = REFUSE
    hu_offset: float | None = None
    axes: str | None = None

    def __post_init__(self) -> None:
        for name in ("irregular", "tilt"):
            if (value := getattr(self, name)) not in (REFUSE, RESAMPLE):
                raise UserError(f"dataset.{name} is {REFUSE} or {RESAMPLE}, got {value!r}")
        if self.axes is not None:
            told_affine(self.axes)


PLAIN = Reading()


class Note(NamedTuple):
    """What a user should know of a CT that is used: the rule, what was found instead, what to do.

    doubtful: the file may be wrong. Else it tells what was chosen, as asked for.
    """

    rule: str
    found: str
    remedy: str
    doubtful: bool = False

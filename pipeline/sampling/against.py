"""The controls of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataset.store.store import StoredCase
from evaluation.mean_volume import MeanVolume


@dataclass(frozen=True)
class Against:
    """What a case is drawn again with, and what is offered for it.

    wrong: X-rays of other patients, by the name of the case. others: those among which it is to be recognised by
        projection. null: also without an X-ray. mean: of the training CTs; None where there are none.
    """

    wrong: Mapping[str, Sequence[StoredCase]]
    others: Mapping[str, Sequence[StoredCase]]
    null: bool
    mean: MeanVolume | None

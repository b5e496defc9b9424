"""The controls of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dataset.store.store import StoredCase
from evaluation.controls import CONTROLS
from evaluation.mean_volume import MeanVolume

_TOLD = ("about", "target", "view", "split", "fold", "study_id", "ct_source", "xray_source")  # by the user's table


@dataclass(frozen=True)
class Against:
    """What a case is drawn again with, and what is offered for it.

    wrong: X-rays of other patients, by the name of the case. others: those among which it is to be recognised by
        projection. null: also without an X-ray. mean: of the training CTs; None where there are none. lookup: the
        training case with the most similar X-ray, whose CT is offered; None: not looked for.
    """

    wrong: Mapping[str, Sequence[StoredCase]]
    others: Mapping[str, Sequence[StoredCase]]
    null: bool
    mean: MeanVolume | None
    lookup: Mapping[str, StoredCase] | None = None

    def facts(self, case: StoredCase) -> dict[str, Any]:
        """What a case's controls follow from, as plain data."""
        return {
            "wrong": [case_facts(other) for other in self.wrong[case.name]],
            "others": [case_facts(other) for other in self.others[case.name]],
            "null": self.null,
            "mean": None if self.mean is None else self.mean.name,
            "lookup": None if self.lookup is None else case_facts(self.lookup[case.name]),
        }


def case_facts(case: StoredCase) -> dict[str, Any]:
    """What the store holds of a case. What the user's table says besides shapes no number, and may be personal."""
    return {name: value for name, value in asdict(case).items() if name not in _TOLD}


def numbers_of_controls(volumes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Their PSNR and lung volumes, of several wrong X-rays the means."""
    numbers: dict[str, float] = {}
    for name in (*CONTROLS, "codec"):
        found = [volume for volume in volumes if volume["of"] == name]
        if found:
            numbers[f"psnr_{name}"] = float(np.mean([volume["scores"][0]["psnr"] for volume in found]))
        if found and "lung_ml" in found[0]:
            numbers[f"lung_ml_{name}"] = float(np.mean([volume["lung_ml"] for volume in found]))
    return numbers

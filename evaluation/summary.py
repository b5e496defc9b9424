"""What an evaluation found over all cases: each score beside its controls, and the headline numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from evaluation.anatomy import OVER_CASES, mean_vessels, over_cases
from evaluation.controls import CONTROLS, ControlScores, Estimate, compare_with_controls, correlation, mean_of
from evaluation.copies import Copying, words
from evaluation.distributions import MEASURES, Distribution
from evaluation.uncertainty import over_cases as calibrated
from evaluation.verdict import sharpness, shown_xrays, verdict

Volumes = Sequence[Mapping[str, Any]]  # what was compared with one case's real CT, see `Findings.of`

_SCORES = ("psnr", "ssim", "hu_mae")
_TEXTURES = ("block_index", "block_index_codec", "block_index_real", "gradient_energy")


@dataclass(frozen=True)
class Findings:
    """Over all cases.

    scores: by name, such as "psnr" and, under a further preset, "psnr ctpa700"; none without real CTs. By "right",
    "wrong" and "null", of those there are: lungs: correlation of drawn with real lung volumes. projection: how alike
    projected CTs are to their cases' X-rays, also "right_minus_wrong"; projection_error: their difference from X-rays
    that are projections. found: share of the CTs to which no other patient's X-ray is more alike. textures: means, see
    `evaluation.seams`. anatomy: of "right" and "codec", see `over_cases`; vessels: of these and "real", means.
    copies: of training patients, by how CTs are looked at. uncertainty: of the spread of draws, see
    `evaluation.uncertainty.over_cases`. distributions: by the networks whose features were compared.
    """

    scores: dict[str, ControlScores]
    lungs: dict[str, Estimate]
    projection: dict[str, Estimate]
    found: dict[str, Estimate]
    textures: dict[str, float]
    projection_error: dict[str, Estimate] = field(default_factory=dict)
    anatomy: dict[str, dict[str, dict[str, Estimate]]] = field(default_factory=dict)
    vessels: dict[str, dict[str, float]] = field(default_factory=dict)
    copies: dict[str, Copying] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cases: Sequence[Volumes], numbers: Sequence[Mapping[str, float]], patients: Sequence[str], seed: int
    ) -> "Findings":
        """
        Args:
            cases: of each case what was compared with its real CT, one dict a volume: `of` is "right", "wrong" (any
                number of them), "null", "mean_volume", "lookup" or "codec"; `scores` are those of
                `evaluation.metrics.score`, the training's window first; `lung_ml` in ml where there is one.
            numbers: of each case, with "lung_ml_real" and textures. patients: of each. seed: of the bootstrap.
        """
        scores = {}
        for index, first in enumerate(cases[0][0].get("scores", ())):
            label = f" {first['preset']}" if index else ""
            for score in _SCORES:
                values = {name: [_mean(case, name, index, score) for case in cases] for name in _names(cases)}
                scores[score + label] = compare_with_controls(values, patients, seed)
        lungs = {}
        for name in ("right", "wrong", "null"):
            pairs = [
                (volume["lung_ml"], own["lung_ml_real"], patient)
                for case, own, patient in zip(cases, numbers, patients, strict=True)
                for volume in case
                if volume["of"] == name and "lung_ml" in volume
            ]
            if pairs:
                drawn, real, owners = zip(*pairs, strict=True)
                lungs[name] = correlation(drawn, real, owners, seed)
        shown: dict[str, dict[str, Estimate]] = {"projection": {}, "rank": {}, "projection_mae": {}}
        for name, (key, means) in product(("right", "wrong", "null"), shown.items()):
            told, whose = _all_of(cases, patients, name, key)
            if told:
                means[name] = mean_of([float(rank == 1) for rank in told] if key == "rank" else told, whose, seed)
        if "wrong" in shown["projection"]:
            apart = [_of(case, "right", "projection") - _of(case, "wrong", "projection") for case in cases]
            shown["projection"]["right_minus_wrong"] = mean_of(apart, patients, seed)
        known = [name for name in _TEXTURES if all(name in own for own in numbers)]
        textures = {name: float(np.mean([own[name] for own in numbers])) for name in known}
        anatomy, vessels = {}, {}
        for name in ("right", "codec", "real"):
            seen = [volume for case in cases for volume in case if volume["of"] == name and "vessels" in volume]
            if seen:
                vessels[name] = mean_vessels([volume["vessels"] for volume in seen])
            own = [volume for case in cases for volume in case if volume["of"] == name]
            regions = [volume["regions"] for volume in own if "regions" in volume]
            if any(regions):
                anatomy[name] = over_cases(regions, patients, seed)
        spreads = [volume["uncertainty"] for case in cases for volume in case if "uncertainty" in volume]
        spread = calibrated(spreads, patients, seed) if spreads else {}
        projection, found, error = shown.values()
        return cls(scores, lungs, projection, found, textures, error, anatomy, vessels, uncertainty=spread)

    @property
    def verdict(self) -> list[str]:
        if "psnr" not in self.scores:
            return shown_xrays(self.projection.get("right_minus_wrong"), self.found.get("right"))
        said = verdict(self.scores["psnr"])
        said += sharpness(self.textures["gradient_energy"]) if said else []
        return [*said, *([words(self.copies)] if self.copies else [])]

    def summary(self) -> dict[str, Any]:
        """The headline numbers by name."""
        found: dict[str, Any] = {}
        for score, compared in self.scores.items():
            name, _, preset = score.partition(" ")
            for who, value in compared.means.items():
                found[f"{name}_{who} {preset}".strip()] = value
            if score == "psnr":
                for who, by in compared.differences.items():
                    found |= _with_interval(f"right_minus_{who}", by)
        for who, by in self.lungs.items():
            found |= _with_interval("lung_volume_correlation" + ("" if who == "right" else f"_{who}"), by)
        for name, means in (
            ("projection", self.projection),
            ("projection_mae", self.projection_error),
            ("own_xray_found", self.found),
        ):
            for who, by in means.items():
                found |= _with_interval(f"{name}_{who}", by)
        for who, regions in self.anatomy.items():
            for region, by_name in regions.items():
                for key in (key for key in OVER_CASES if key in by_name):
                    found |= _with_interval(f"{key}_{region}" + ("" if who == "right" else f"_{who}"), by_name[key])
        for key, by in self.uncertainty.items():
            if key != "curve":
                found |= _with_interval(key, by) if isinstance(by, Estimate) else {key: by}
        for who, vessels in self.vessels.items():
            found |= {f"vessel_{name}_{who}": value for name, value in vessels.items()}
        for way, copying in self.copies.items():
            found |= {f"copies_{way}": copying.nearer, f"copies_p_{way}": copying.p}
        for network, spread in self.distributions.items():
            for measure in MEASURES:
                found |= _with_interval(f"{measure}_{network}", getattr(spread, measure))
        return found | self.textures


def _names(cases: Sequence[Volumes]) -> list[str]:
    """What was compared in every case, the right one first."""
    return [
        name
        for name in ("right", *CONTROLS, "codec")
        if all(any(volume["of"] == name for volume in case) for case in cases)
    ]


def _all_of(cases: Sequence[Volumes], patients: Sequence[str], name: str, key: str) -> tuple[list[float], list[str]]:
    """Of all that was compared under a name and has a number: that number, and the patient."""
    both = zip(cases, patients, strict=True)
    rows = [(volume[key], who) for case, who in both for volume in case if volume["of"] == name and key in volume]
    return [value for value, _ in rows], [who for _, who in rows]


def _of(case: Volumes, name: str, key: str) -> float:
    return float(np.mean([volume[key] for volume in case if volume["of"] == name]))


def _mean(case: Volumes, name: str, index: int, score: str) -> float:
    return float(np.mean([volume["scores"][index][score] for volume in case if volume["of"] == name]))


def _with_interval(name: str, by: Estimate) -> dict[str, Any]:
    return {name: by.value, f"{name}_95": None if by.low is None else [by.low, by.high]}

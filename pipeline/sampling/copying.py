"""Do drawn CTs give away training patients? And what a look-up of the most similar X-ray's CT would score."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from common.collectives import Team, gathered
from dataset.scans.volume_io import read_ct
from dataset.store.store import StoredCase
from evaluation.common_grid import CommonGrid, boxes_to_grid
from evaluation.copies import Copying, Look, Nearest, distances, nearest
from evaluation.pictures import case_page, save_png
from pipeline.sampling.evaluated_cases import Evaluation
from pipeline.sampling.evaluated_field import Field
from pipeline.sampling.looks import WAYS, Looking, Looks
from pipeline.sampling.progress import with_progress


def most_similar(
    cases: Sequence[StoredCase], training: Sequence[StoredCase], looks: Mapping[str, Looks]
) -> dict[str, StoredCase]:
    """Of each case, by name, the training case of another patient whose X-ray the encoder sees most alike."""
    known = np.stack([looks[case.name].xray for case in training])
    std = known.std(0) + 1e-6
    found = {}
    for case in cases:
        by = np.square((known - looks[case.name].xray) / std).sum(1)
        by[[other.patient_id == case.patient_id for other in training]] = np.inf
        found[case.name] = training[int(by.argmin())]
    return found


def check_copies(
    evaluation: Evaluation, cases: Sequence[StoredCase], looking: Looking, looks: Mapping[str, Looks], team: Team
) -> dict[str, Copying]:
    """By the ways to look at CTs. The processes of a team share the drawn CTs.

    Args:
        cases: whose drawn CTs lie in the evaluation's folder. looks: of these and all training cases.
    """
    mine = cases[team.rank :: team.size]
    drawn = {}
    for case in with_progress(mine, "looking for copies", "CT", team):
        field = Field.of(case, evaluation.median)
        drawn[case.name] = looking.of_ct(read_ct(evaluation.volumes(case)[0]).hu, field.place.grid.spacing)
    drawn = {name: look for part in gathered(drawn) for name, look in part.items()}
    training = evaluation.store.split("train")
    owners, names = [case.patient_id for case in cases], [case.name for case in cases]
    found = {}
    for way in WAYS:
        known = [looks[case.name].ct[way] for case in training]

        def of(some: Sequence[Look], known: Sequence[Look] = known) -> dict[str, Nearest]:
            by = nearest(
                distances(some, known), owners, [case.name for case in training], [case.patient_id for case in training]
            )
            return dict(zip(names, by, strict=True))

        found[way] = Copying.of(of([drawn[name][way] for name in names]), of([looks[name].ct[way] for name in names]))
    return found


def picture_closest(evaluation: Evaluation, found: Mapping[str, Copying]) -> list[dict[str, Any]]:
    """The drawn CTs that are nearest to a single training CT, each beside it: what is known, and a picture of both."""
    of = {case.name: case for case in evaluation.store.cases}
    pairs = []
    for way, copying in found.items():
        for name in copying.closest:
            near, field = copying.drawn[name], Field.of(of[name], evaluation.median)
            other, grid = of[near.name], field.place.grid
            numbers: dict[str, Any] = {"distance": near.distance, "ratio": near.ratio}
            read = partial(evaluation.store.read_hu, other)
            theirs = boxes_to_grid(
                read, other.shape, other.spacing, CommonGrid(grid.shape, grid.spacing), evaluation.model.hu_window
            )
            page = case_page(
                evaluation.store.read_xray(of[name], evaluation.model.description.xray_ranges),
                theirs,
                read_ct(evaluation.volumes(of[name])[0]).hu,
                grid.spacing,
                f"training CT {near.name} over the CT drawn for {name}",
                {"by": way} | numbers,
            )
            picture = evaluation.folder / f"closest_{way}_{name}.png"
            save_png(page, picture)
            pairs.append({"by": way, "case": name, "training": near.name, "picture": picture.name} | numbers)
    return pairs

"""Which label a case has, and its CTs as a classifier sees them."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from dataset.intensity import hu_to_unit
from dataset.scans.volume_io import read_ct
from dataset.store.store import StoredCase
from evaluation.common_grid import CommonGrid, boxes_to_grid, to_grid
from pipeline.sampling.evaluated_cases import Evaluation
from pipeline.sampling.evaluated_field import Field


def labels_of(cases: Iterable[StoredCase], column: str) -> dict[str, bool]:
    """By name, of the cases that have one; column: "target" or one of the user's own in pairs.csv.

    Raises:
        UserError: no case has such a column, or its values are not 0 and 1.
    """
    values = {case.name: case.target if column == "target" else case.about.get(column) for case in cases}
    known = {name: str(value).strip() for name, value in values.items() if value not in (None, "")}
    if not known:
        columns = sorted({name for case in cases for name in case.about})
        raise UserError(
            f"target={column}: no case has a value of that name; the manifest knows target"
            f"{''.join(f', {name}' for name in columns)}. Give the column in pairs.csv and run prepare_data.py again"
        )
    labels = {"0": False, "0.0": False, "1": True, "1.0": True}
    strange = sorted({value for value in known.values() if value not in labels})
    if strange:
        raise UserError(
            f"target={column}: a label is 1 or 0 (or empty: the case is left out), got {', '.join(strange[:5])}; write"
            " a column of 1 and 0 into pairs.csv"
        )
    return {name: labels[value] for name, value in known.items()}


def check_classes(labels: Sequence[bool], split: str, column: str) -> None:
    """UserError unless some cases have the label and some have not."""
    if len(set(labels)) < 2:
        raise UserError(
            f"a task needs cases with and without the label, but split={split} has {sum(labels)} with and"
            f" {len(labels) - sum(labels)} without target={column}; take another split, or more cases"
        )


def real_on_grid(evaluation: Evaluation, cases: Sequence[StoredCase], grid: CommonGrid) -> Tensor:
    """Float16 (N, D, H, W) in [-1, 1]."""
    store, window = evaluation.store, evaluation.model.hu_window
    each = (boxes_to_grid(partial(store.read_hu, c), c.shape, c.spacing, grid, window) for c in cases)
    return _stacked(each, window)


def drawn_on_grid(evaluation: Evaluation, cases: Sequence[StoredCase], grid: CommonGrid) -> Tensor:
    """The same of the CTs that were drawn, of several the first."""
    window = evaluation.model.hu_window
    spacings = (Field.of(case, evaluation.median).place.grid.spacing for case in cases)
    each = (
        to_grid(read_ct(evaluation.volumes(case)[0]).hu, spacing, grid, window)
        for case, spacing in zip(cases, spacings, strict=True)
    )
    return _stacked(each, window)


def _stacked(each: Iterable[np.ndarray], window: tuple[float, float]) -> Tensor:
    return torch.stack([torch.from_numpy(hu_to_unit(hu, window)).half() for hu in each])

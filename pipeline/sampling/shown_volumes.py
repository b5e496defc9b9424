"""The CTs that an evaluation's report shows beside the real ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.scans.volume_io import read_ct, write_ct
from dataset.store.store import StoredCase
from evaluation.report.volumes import MOST_BYTES, choose, embed, real_path, shown_cases
from pipeline.sampling.evaluated_cases import Compared, Evaluation
from pipeline.sampling.evaluated_field import Field


def embed_volumes(evaluation: Evaluation, cases: Sequence[StoredCase], compared: Sequence[Compared]) -> None:
    """Give the report the best, worst and middle cases' CTs: small ones for its page, the real one at full size."""
    names = shown_cases({c.name: c.numbers["psnr"] for c in compared})
    folder = evaluation.folder
    choose(folder, names)
    for case in (case for case in cases if case.name in names):
        field, window = Field.of(case, evaluation.median), evaluation.model.hu_window
        real = field.of_real(evaluation.store.read_hu(case, (0, 0, 0), case.shape), window)
        generated = field.of_drawn(_hu(evaluation.volumes(case)[-1]))
        embed(folder, case.name, (np.clip(real, *window), generated), field.affine, MOST_BYTES // len(names))
        write_ct(real_path(folder, case.name), np.round(real).astype(np.int16), field.affine, field.place.axes)


def _hu(path: Path) -> np.ndarray:
    return read_ct(path).hu

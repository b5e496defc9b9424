"""What an evaluation keeps of its cases until its report is written."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import evaluate_ddpm_patches
from dataset.store.store import MANIFEST
from pipeline.sampling.evaluated_cases import Evaluation
from tests.tiny import run


def test_what_a_table_says_of_patients_changes_no_drawn_ct_and_is_not_kept_beside_it(workshop, elsewhere, monkeypatch):
    """A column that is added to pairs.csv, as for a task, must not have every CT drawn again."""
    store = elsewhere / "store"
    shutil.copytree(workshop.store, store)
    settings = [workshop.data, f"dataset.store={store}", f"ckpt={workshop.ddpm_ckpt}", "run_dir=out", "split=train"]
    more, drawn = ["num_cases=2", "steps=2", "device=cpu", "controls=false", "anatomy=false"], []
    compare = Evaluation.compare
    monkeypatch.setattr(Evaluation, "compare", lambda self, case: (drawn.append(case.name), compare(self, case)))
    monkeypatch.setattr(evaluate_ddpm_patches, "_report", lambda *_: sys.exit(1))  # ends before its folder is cleared
    with pytest.raises(SystemExit):
        run(evaluate_ddpm_patches, *settings, *more)
    cases = [json.loads(line) for line in (store / MANIFEST).read_text().splitlines()]
    told = {"about": {"birth": "1950-01-02"}, "target": 1.0, "view": "AP"}
    (store / MANIFEST).write_text("".join(json.dumps(case | told) + "\n" for case in cases))
    with pytest.raises(SystemExit):
        run(evaluate_ddpm_patches, *settings, *more)
    assert drawn == ["phantom0000", "phantom0001"]
    (store / MANIFEST).write_text("".join(json.dumps(case | {"spacing": [9, 9, 9]}) + "\n" for case in cases))
    with pytest.raises(SystemExit):
        run(evaluate_ddpm_patches, *settings, *more)
    assert len(drawn) == 4
    kept = "".join(path.read_text() for path in Path("out/unfinished").glob("*.json"))
    assert "phantom0000" in kept
    assert "1950" not in kept
    assert "phantom0000_pa_drr.png" not in kept

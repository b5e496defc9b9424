"""k-fold splits by patient: each validates once, the store keeps to its fold, a split column has no say in it."""

import json
from collections import Counter

import pytest
from omegaconf import OmegaConf

from common.errors import UserError
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.store.folds import Folds
from dataset.store.store import VolumeStore
from pipeline.settings import folds_of
from tests.pairs import add_case

IDS = [f"p{n}" for n in range(900)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight studies of four patients: a to d."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(8):
        add_case(root / "files", f"s{number}", number)
        rows.append(f"{'abcd'[number // 2]},files/s{number}/s{number}.nii.gz,files/s{number}/x_pa_drr.png")
    (root / "pairs.csv").write_text("\n".join(["patient_id,ct,xray", *rows]) + "\n")
    return root


def validating(folds, ids=IDS, told=None):
    return [{n for n, split in Folds(folds, k).assign(ids, told or {}).items() if split == "val"} for k in range(folds)]


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_every_patient_validates_in_one_fold_and_trains_in_the_others(folds):
    parts = validating(folds)
    assert Counter(name for part in parts for name in part) == Counter(IDS)
    assert all(0.7 * 900 / folds < len(part) < 1.3 * 900 / folds for part in parts)


def test_a_fold_does_not_change_with_other_patients_or_their_order():
    few = validating(5, IDS[:300][::-1])
    assert few == [part & set(IDS[:300]) for part in validating(5)]


def test_a_test_set_is_in_no_fold_and_other_told_splits_are_refused():
    told = dict.fromkeys(IDS[:50], "test")
    assert Folds(5, 1).assign(IDS, told) | told == Folds(5, 1).assign(IDS, told)
    assert set().union(*validating(5, told=told)) == set(IDS[50:])
    for split in ("train", "val"):
        with pytest.raises(UserError, match=r"column 'split' of pairs.csv does for 1 patients \(p3\)"):
            Folds(5, 1).assign(IDS, told | {"p3": split})


def test_folds_that_nobody_fills_are_refused():
    for fold in range(3):  # which has all, or none
        with pytest.raises(UserError, match="take fewer folds"):
            Folds(3, fold).assign(["a"], {})
    for folds, fold in ((5, 5), (5, -1), (1, 0)):
        with pytest.raises(UserError, match=f"dataset.folds={folds} dataset.fold={fold}"):
            Folds(folds, fold)


def test_a_store_says_its_fold_and_keeps_to_it(root, tmp_path):
    seen = Counter()
    for fold in range(2):
        store = tmp_path / f"fold{fold}"
        cases = prepare(root, store, folds=Folds(2, fold)).cases
        assert {case.fold for case in cases} == {f"{fold}/2"}
        assert json.loads((store / "manifest.jsonl").read_text().splitlines()[0])["fold"] == f"{fold}/2"
        assert FileStore(root, folds=Folds(2, fold)).cases == VolumeStore(store).cases == cases
        seen.update(case.name for case in cases if case.split == "val")
        assert len({(case.patient_id, case.split) for case in cases}) == 4  # both studies of a patient on one side
    assert set(seen.values()) == {1}
    assert len(seen) == 8
    assert prepare(root, store, folds=Folds(2, 1)).prepared == 0
    for other in (Folds(2, 0), Folds(3, 1), None):
        with pytest.raises(UserError, match=r"were split by dataset.folds=2 dataset.fold=1, and stay"):
            prepare(root, store, folds=other)


def test_a_store_split_by_shares_takes_no_fold(root, tmp_path):
    assert {case.fold for case in prepare(root, tmp_path / "store").cases} == {""}
    with pytest.raises(UserError, match=r'split by dataset.split={"train": 0.8, "val": 0.2}, .* got dataset.folds=2'):
        prepare(root, tmp_path / "store", folds=Folds(2, 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 5, "fold": None}, "belong together"),
        ({"folds": None, "fold": 0}, "belong together"),
        ({"folds": 5, "fold": 0, "split": {"train": 0.8, "val": 0.1, "test": 0.1}}, "name the test set in the column"),
    ],
)
def test_settings_that_say_half_or_two_things_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        folds_of(OmegaConf.create({"split": {"train": 0.8, "val": 0.2}} | settings))

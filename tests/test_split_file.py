import json

import pytest

from dataset.prepare.run import prepare
from dataset.store.split_file import warn_of_other_shares
from dataset.store.store import VolumeStore
from tests.pairs import add_case

THREE = {"train": 0.4, "val": 0.2, "test": 0.4}


@pytest.fixture
def root(tmp_path):
    for seed in range(5):
        add_case(tmp_path / "data", f"p{seed}", seed)
    return tmp_path / "data"


def splits(store):
    return sorted(case.split for case in VolumeStore(store).cases)


def test_other_shares_leave_the_patients_where_they_are_and_that_is_said(root, tmp_path, caplog):
    store = tmp_path / "store"
    prepare(root, store)
    prepare(root, store)
    warn_of_other_shares(store, {"train": 0.8, "val": 0.2})
    assert "dataset.split" not in caplog.text
    for _ in range(2):  # not only the first time
        caplog.clear()
        prepare(root, store, shares=THREE)
        assert splits(store) == ["train"] * 4 + ["val"]
        assert "to split all anew, remove splits.json" in caplog.text


def test_without_splits_json_all_are_split_anew_by_the_new_shares(root, tmp_path, caplog):
    store = tmp_path / "store"
    prepare(root, store)
    (store / "splits.json").unlink()
    prepare(root, store, shares=THREE)
    assert splits(store) == ["test", "test", "train", "train", "val"]
    assert json.loads((store / "shares.json").read_text()) == THREE
    prepare(root, store, shares=THREE)
    assert "dataset.split" not in caplog.text

from collections import Counter

import pytest

from dataset.store.split import assign_splits

TWO, THREE = {"train": 0.8, "val": 0.2}, {"train": 0.7, "val": 0.2, "test": 0.1}


def ids(n, start=0):
    return [f"patient{i:04d}" for i in range(start, start + n)]


def test_the_guides_901_patients_give_720_and_181():
    assert Counter(assign_splits(ids(901), {}, TWO).values()) == {"train": 720, "val": 181}


@pytest.mark.parametrize("n", [1, 2, 5, 10, 37])
@pytest.mark.parametrize("shares", [TWO, THREE])
def test_shares_are_kept_and_somebody_trains(n, shares):
    counts = Counter(assign_splits(ids(n), {}, shares).values())
    assert counts["train"] == max(1, int(shares["train"] * n + 1e-9))
    assert counts["test"] == int(shares.get("test", 0) * n + 1e-9)
    assert sum(counts.values()) == n


def test_the_order_of_the_ids_does_not_matter_but_their_hash_does():
    forward = assign_splits(ids(50), {}, TWO)
    assert assign_splits(reversed(ids(50)), {}, TWO) == forward
    assert [forward[name] for name in ids(40)] != ["train"] * 40  # not simply the first ones


@pytest.mark.parametrize("shares", [TWO, THREE])
def test_stored_assignments_never_change_and_new_patients_fill_the_gap(shares):
    first = assign_splits(ids(20), {}, shares)
    second = assign_splits(ids(50), first, shares)
    assert {name: second[name] for name in first} == first
    counts = Counter(second.values())
    for name, share in shares.items():
        assert abs(counts[name] - share * 50) < 1


def test_a_lopsided_start_is_levelled_by_new_patients_only():
    stored = dict.fromkeys(ids(10), "train")
    second = assign_splits(ids(12), stored, TWO)
    assert [second[name] for name in ids(2, start=10)] == ["val", "val"]


def test_patients_that_have_gone_are_not_counted():
    stored = dict.fromkeys(ids(5), "val") | dict.fromkeys(ids(8, start=5), "train")
    assigned = assign_splits(ids(8, start=5) + ["new1", "new2"], stored, TWO)
    assert {assigned["new1"], assigned["new2"]} == {"val"}


@pytest.mark.parametrize("tests", [300, 450, 899])
def test_a_test_set_named_by_hand_takes_nothing_from_validation(tests):
    stored = dict.fromkeys(ids(tests), "test")
    counts = Counter(assign_splits(ids(900), stored, TWO).values())
    others = 900 - tests
    assert counts["test"] == tests
    assert counts["train"] == max(1, round(0.8 * others))
    assert sum(counts.values()) == 900


@pytest.mark.parametrize(
    ("stored", "shares"),
    [
        ({}, {"train": 0.8, "val": 0.1}),
        ({}, {"train": 1.2, "val": -0.2}),
        ({}, {"val": 1.0}),
        ({}, {"train": 0.8, "dev": 0.2}),
        ({"a": "dev"}, TWO),
    ],
)
def test_wrong_shares_and_names_are_refused(stored, shares):
    with pytest.raises(ValueError, match="split"):
        assign_splits(["a"], stored, shares)

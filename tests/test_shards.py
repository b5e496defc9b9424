import logging
import os
from unittest import mock

import pytest

import prepare_data
from common.launcher import join_srun
from dataset.prepare import one_case
from dataset.prepare.run import prepare
from dataset.prepare.shards import Shard, parse_shard, shard_of_environment
from dataset.store.store import VolumeStore
from tests.pairs import add_case
from tests.tiny import run

WRITTEN = ("manifest.jsonl", "splits.json", "report.txt", "report.html")


@pytest.fixture
def root(tmp_path):
    for seed in range(5):
        add_case(tmp_path / "data", f"p{seed}", seed)
    (tmp_path / "data" / "p3" / "x_pa_drr.png").write_text("no image")
    return tmp_path / "data"


def assert_as_one_process_makes_it(root, store, tmp_path):
    """Manifest, splits and reports byte for byte, and the volumes."""
    prepare(root, tmp_path / "alone")
    for name in WRITTEN:
        text = (store / name).read_text().replace(str(store), "STORE")
        assert text == (tmp_path / "alone" / name).read_text().replace(str(tmp_path / "alone"), "STORE"), name
    alone, split = VolumeStore(tmp_path / "alone"), VolumeStore(store)
    for case in alone.cases:
        box = ((0, 0, 0), case.shape)
        assert (alone.read_hu(case, *box) == split.read_hu(case, *box)).all()


def test_shards_share_all_cases_out():
    items = list(range(10))
    shares = [Shard(i, 3).share(items) for i in (1, 2, 3)]
    assert shares[0] == [0, 3, 6, 9]
    assert sorted(sum(shares, [])) == items


def test_the_last_shard_merges_what_one_process_would_make(root, tmp_path):
    store = tmp_path / "store"
    for index, (made, missing) in ((3, (1, 4)), (1, (2, 2))):
        report = prepare(root, store, shard=Shard(index, 3))
        assert (report.prepared, report.missing, report.cases) == (made, missing, [])
        assert not any((store / name).exists() for name in WRITTEN)
    last = prepare(root, store, shard=Shard(2, 3))
    assert (last.prepared, last.missing, len(last.cases), len(last.problems)) == (2, 0, 4, 1)
    assert_as_one_process_makes_it(root, store, tmp_path)


def test_a_plain_run_after_the_shards_merges_and_makes_the_rest(root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store, shard=Shard(2, 2))
    report = prepare(root, store)
    assert (report.prepared, report.missing) == (3, 0)
    assert_as_one_process_makes_it(root, store, tmp_path)


def test_an_interrupted_shard_goes_on(root, tmp_path, monkeypatch):
    store = tmp_path / "store"
    prepare(root, store, shard=Shard(2, 2))
    write_volume = one_case.write_volume

    def stop_at_p2(folder, patient_id, hu, source_hash):
        if patient_id == "p2":
            raise KeyboardInterrupt
        write_volume(folder, patient_id, hu, source_hash)

    monkeypatch.setattr(one_case, "write_volume", stop_at_p2)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, store, shard=Shard(1, 2))
    assert not (store / "manifest.jsonl").exists()
    monkeypatch.undo()
    assert prepare(root, store, shard=Shard(1, 2)).prepared == 2  # p2 and p4; p0 was done
    assert_as_one_process_makes_it(root, store, tmp_path)


def test_a_case_that_a_shard_cannot_read_does_not_keep_the_others_waiting(root, tmp_path, monkeypatch):
    source_stamp = one_case.source_stamp

    def fail_at_p0(case):
        if case.patient_id == "p0":
            raise PermissionError(13, "Permission denied", str(case.ct))
        return source_stamp(case)

    monkeypatch.setattr(one_case, "source_stamp", fail_at_p0)
    store = tmp_path / "store"
    assert prepare(root, store, shard=Shard(1, 2)).missing == 2
    monkeypatch.undo()
    report = prepare(root, store, shard=Shard(2, 2))
    assert [case.patient_id for case in report.cases] == ["p1", "p2", "p4"]
    assert "Permission denied" in (store / "report.txt").read_text()
    assert [case.patient_id for case in prepare(root, store).cases] == ["p0", "p1", "p2", "p4"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Shard(4, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, Shard(1, 2)),  # srun
        ({"RANK": "1", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, Shard(2, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # a batch script, which runs once
    ],
)
def test_launchers_name_the_shard(variables, expected):
    with mock.patch.dict(os.environ, variables):
        join_srun()
        assert shard_of_environment() == expected


def test_shards_are_written_from_one():
    assert parse_shard("1/4") == Shard(1, 4)
    for text in ("0/4", "5/4", "1/0"):
        with pytest.raises(ValueError, match="shard=1/4"):
            parse_shard(text)
    for text in ("2", "1 of 4", "-1/4", "a/b"):
        with pytest.raises(ValueError, match="such as 1/4"):
            parse_shard(text)


def test_the_command_prepares_its_part(root, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    settings = [
        f"dataset.root={root}",
        f"dataset.store={tmp_path}/store",
        "dataset.prepare_workers=0",
        "dataset.pair_check=off",
    ]
    run(prepare_data, *settings, "shard=2/2")
    assert "2/2 is done, 2 cases made now; 3 cases of other shards are missing" in caplog.text
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(prepare_data, *settings)
    assert_as_one_process_makes_it(root, tmp_path / "store", tmp_path)

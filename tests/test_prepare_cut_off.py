"""What a preparation leaves behind that a full disk, a signal or an error cut off."""

import json
import os
import signal
import time

import numpy as np
import pytest

from common.errors import BadFileError, UserError
from dataset.prepare import one_case
from dataset.prepare.cases import find_cases
from dataset.prepare.processes import results_of
from dataset.prepare.run import prepare
from dataset.scans.volume_io import write_ct
from dataset.store.records import RECORD_FORMAT
from dataset.store.store import VolumeStore
from tests.disk import largest_file
from tests.pairs import AFFINE, SHAPE, add_case, thorax
from tests.test_prepare import assert_stored


@pytest.fixture
def root(tmp_path):
    for seed in range(3):
        add_case(tmp_path / "data", f"p{seed}", seed)
    return tmp_path / "data"


def test_a_full_disk_stops_the_run(root, tmp_path):
    with largest_file(1000), pytest.raises(OSError, match=r"File too large.*store/.*p0"):
        prepare(root, tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.jsonl").exists()
    assert len(prepare(root, tmp_path / "store").cases) == 3


@pytest.mark.parametrize(
    "damaged",
    [b'{"a": "\n', b"", b"[]", b"{}", b"\xff\xfe", json.dumps({"format": RECORD_FORMAT, "problems": [1]}).encode()],
    ids=["cut", "empty", "list", "nothing", "bytes", "problem"],
)
def test_a_damaged_record_is_named_and_its_case_prepared_anew(root, tmp_path, caplog, damaged):
    store = tmp_path / "store"
    prepare(root, store)
    record, good = store / "cases" / "p1.json", (store / "manifest.jsonl").read_bytes()
    record.write_bytes(damaged)
    caplog.clear()
    assert prepare(root, store).prepared == 1
    assert [r.message.split()[:3] for r in caplog.records if r.levelname == "WARNING"] == [
        [str(record), "is", "damaged"]
    ]
    assert (store / "manifest.jsonl").read_bytes() == good
    assert prepare(root, store).prepared == 0


@pytest.mark.parametrize("name", ["splits.json", "shares.json", "conversion.json"])
def test_a_damaged_file_of_the_store_is_named(root, tmp_path, name):
    prepare(root, tmp_path / "store")
    (tmp_path / "store" / name).write_text('{"a": "')
    with pytest.raises(BadFileError, match=rf"store/{name}: a JSON file is whole; got .*damaged one .*emove"):
        prepare(root, tmp_path / "store")


def test_a_replaced_ct_whose_preparation_is_interrupted_is_never_served_with_the_old_geometry(
    root, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    prepare(root, store)
    running = VolumeStore(store)  # a training that goes on meanwhile
    path = root / "p1" / "p1.nii.gz"
    first = path.read_bytes()
    write_ct(path, thorax(21), AFFINE @ np.diag([1, 1, 1.25, 1]))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(one_case, "write_square_xray", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, store)
    monkeypatch.undo()
    for opened in (running, VolumeStore(store)):
        with pytest.raises(ValueError, match="not the one of the manifest"):
            opened.read_hu(opened.cases[1], (0, 0, 0), SHAPE)
        opened.read_hu(opened.cases[2], (0, 0, 0), SHAPE)
    times = path.stat()
    path.write_bytes(first)  # the old file again: its record must not outlive what it speaks of
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    prepare(root, store)
    assert_stored(root, store)


def test_a_training_that_runs_does_not_notice_new_patients(root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store)
    running = VolumeStore(store)
    before = [running.read_hu(case, (0, 0, 0), case.shape) for case in running.cases]
    xrays = [running.read_xray(case) for case in running.cases]
    add_case(root, "p00", 40)
    assert len(prepare(root, store).cases) == 4
    for case, hu, xray in zip(running.cases, before, xrays, strict=True):
        np.testing.assert_array_equal(running.read_hu(case, (0, 0, 0), case.shape), hu)
        np.testing.assert_array_equal(running.read_xray(case), xray)


def kill_itself(case):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_a_message_with_the_setting_to_lower(root, tmp_path):
    cases, _ = find_cases(root, None, "*_pa_drr.png", tmp_path / "store", make_xray=False)
    with pytest.raises(UserError, match=r"got dataset\.prepare_workers=1\. Lower it"):
        list(results_of(kill_itself, cases[:1], 1, "%d of %d"))


def test_what_killed_runs_left_is_removed_once_it_is_old(root, tmp_path):
    store = tmp_path / "store"
    prepare(root, store)
    old, new = store / "volumes" / ".tmp0123456789ab-p9.b2nd", store / "volumes" / ".tmp0123456789cd-p9.b2nd"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    prepare(root, store)
    assert (old.exists(), new.exists()) == (False, True)

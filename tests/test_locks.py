import errno
import multiprocessing
import time

import pytest

from common import locks
from common.locks import exclusive


def append_slowly(folder, name):
    with exclusive(folder / ".lock"), (folder / "log").open("a") as log:
        for _ in range(5):
            log.write(name)
            log.flush()
            time.sleep(0.01)


def test_only_one_process_is_inside(tmp_path):
    workers = [multiprocessing.get_context("fork").Process(target=append_slowly, args=(tmp_path, n)) for n in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    written = (tmp_path / "log").read_text()
    assert sorted(written[start : start + 5] for start in (0, 5, 10)) == ["aaaaa", "bbbbb", "ccccc"]


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    def refuse(number):
        def flock(*_):
            raise OSError(number, "no")

        monkeypatch.setattr(locks.fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with exclusive(tmp_path / "folder" / ".lock"):
        assert (tmp_path / "folder").is_dir()
    refuse(errno.EACCES)
    with pytest.raises(OSError, match="no"), exclusive(tmp_path / ".lock"):
        pass

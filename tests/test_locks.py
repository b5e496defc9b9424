import errno
import fcntl
import multiprocessing
import time

import pytest
from filelock import FileLock, Timeout

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


def hold(path, held):
    with exclusive(path):
        held.set()
        time.sleep(1000)


def test_a_process_that_is_killed_holds_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    worker = context.Process(target=hold, args=(tmp_path / ".lock", held))
    worker.start()
    assert held.wait(60)
    with pytest.raises(Timeout):
        FileLock(tmp_path / ".lock").acquire(timeout=0)
    worker.kill()
    with exclusive(tmp_path / ".lock"):
        pass
    worker.join()


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, caplog):
    def refuse(number):
        def flock(*_):
            raise OSError(number, "no")

        monkeypatch.setattr(fcntl, "flock", flock)

    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        refuse(number)
        caplog.clear()
        with caplog.at_level("INFO"), exclusive(tmp_path / "folder" / ".lock"):
            assert (tmp_path / "folder").is_dir()
        assert "has no locks" in caplog.text
    refuse(errno.EIO)
    with pytest.raises(OSError, match="no"), exclusive(tmp_path / ".lock"):
        pass

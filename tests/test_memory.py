import mmap
import subprocess
import sys
from pathlib import Path

import psutil

from common import memory
from common.memory import PeakMemory, forget_peak, peak_bytes, resident_bytes

ROOT = Path(__file__).resolve().parents[1]
MB = 1 << 20
HOLD = "held = b'x' * (80 << 20); print('ready', flush=True); input()"


def test_the_peak_stays_when_memory_is_freed_and_can_be_forgotten():
    forget_peak()
    before = resident_bytes()
    with mmap.mmap(-1, 200 * MB) as held:  # not bytes, which may take room that was freed and not given back
        held.write(b"x" * len(held))
        assert resident_bytes() - before > 190 * MB
    assert resident_bytes() - before < 100 * MB
    assert peak_bytes() - before > 190 * MB
    forget_peak()
    assert peak_bytes() - before < 100 * MB


def test_the_peak_of_a_process_is_its_own_not_its_parents():
    held = b"x" * (300 * MB)
    child = "from common.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", child], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 5 * MB < int(done.stdout) < len(held)


def test_a_system_without_proc_still_gives_a_peak(monkeypatch):
    monkeypatch.setattr(memory, "_STATUS", Path("/nowhere"))
    assert peak_bytes() > 0


def test_children_count_and_those_that_ended_do_not():
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert memory._family_bytes(process.pid) > 80 * MB
        assert psutil.Process(process.pid).memory_info().rss < 80 * MB
        process.communicate(b"\n")
    assert memory._family_bytes(process.pid) == 0


def test_a_watched_command_tells_its_status():
    watch = PeakMemory()
    assert watch.watch(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]), every_s=0.001) == 3
    assert watch.peak_gb > 0

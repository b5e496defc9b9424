"""A long training holds no more memory and no more files than a short one."""

from pathlib import Path

import psutil
import pytest
import pytorch_lightning as pl

import train_ddpm_patches_4gpu
from tests.processes import running, script

STEPS = 2000


class Watch(pl.Callback):
    """Writes down, every twenty steps: step, bytes that this process holds, bytes of its loader processes, open files.

    Without what is mapped from files: how much of a library would count depends on who else has it loaded.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 20 == 0:
            me = psutil.Process()
            family = [me, *(child for child in me.children() if child.status() != psutil.STATUS_ZOMBIE)]
            own, *loaders = (info.rss - info.shared for info in (process.memory_info() for process in family))
            with self.file.open("a") as file:
                print(trainer.global_step, own, sum(loaders), sum(p.num_fds() for p in family), file=file)


@pytest.mark.slow
def test_memory_and_open_files_stay_flat(workshop, elsewhere):
    length = ["model.max_epochs=-1", f"model.max_steps={STEPS}", "model.patches_per_volume=12", "model.num_workers=4"]
    often = ["model.val_every_n_epochs=2", "model.checkpoint_every_n_steps=20", "trainer.log_every_n_steps=1"]
    watch = "+callbacks.watch={_target_: tests.test_soak.Watch, file: seen}"
    command = script(train_ddpm_patches_4gpu, *workshop.ddpm, *length, *often, watch)
    with running(command, elsewhere / "log") as training:
        assert training.status(7200) == 0, training.said
    seen = [tuple(map(int, line.split())) for line in Path("seen").read_text().splitlines()]
    assert seen[-1][0] == STEPS
    quarter = len(seen) // 4
    for what, column in {"own": 1, "of the loaders": 2, "open files": 3}.items():
        # the most: files and memory of the batches that are ready come and go
        early, late = (max(row[column] for row in part) for part in (seen[quarter : 2 * quarter], seen[-quarter:]))
        print(f"{what}: {early} in the second quarter, {late} in the last")
        assert late <= 1.02 * early

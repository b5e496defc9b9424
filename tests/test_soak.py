"""A long training holds no more memory and no more files than a short one."""

from pathlib import Path
from statistics import median

import psutil
import pytest
import pytorch_lightning as pl

import train_ddpm_patches_4gpu
from tests.processes import running, script

STEPS = 2000


class Watch(pl.Callback):
    """Writes down, every twenty steps: step, bytes resident here and in the loader processes, open files."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 20 == 0:
            me = psutil.Process()
            family = [me, *(child for child in me.children() if child.status() != psutil.STATUS_ZOMBIE)]
            resident = sum(process.memory_full_info().pss for process in family)  # shared pages count once
            with self.file.open("a") as file:
                file.write(f"{trainer.global_step} {resident} {sum(p.num_fds() for p in family)}\n")


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
    for what in (1, 2):
        early, late = (median(row[what] for row in part) for part in (seen[quarter : 2 * quarter], seen[-quarter:]))
        print(f"{('resident', 'open files')[what - 1]}: {early} in the second quarter, {late} in the last")
        assert late <= 1.02 * early

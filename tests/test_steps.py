"""What a step learns from is the same however its patches lie on processes and batches."""

import multiprocessing
import os

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline.resolvers import _accumulated
from tests.test_resume import LENGTH, assert_same, stop_at
from tests.tiny import DDPM_CKPT, Record, Stopped, built, built_ddpm, free_port, load, run


class Loss(nn.Module):
    """A module's loss of a training step, as DDP wraps it."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        module.log = module.log_dict = lambda *_, **__: None

    def forward(self, batch):
        return self.module.training_step(batch, 0)


def gradients(module, batch, ranks=1, rank=0):
    loss = Loss(module)
    if ranks > 1:
        size = len(batch["sample_key"]) // ranks
        batch = {key: value[rank * size : (rank + 1) * size] for key, value in batch.items()}
        loss = DistributedDataParallel(loss)
    loss(batch).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def one_of_two(rank, port, module, batch, path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(gradients(module, batch, 2, rank), f"{path}{rank}")
    distributed.destroy_process_group()


def of_two_processes(module, batch, path):
    context, port = multiprocessing.get_context("fork"), free_port()
    ranks = [context.Process(target=one_of_two, args=(rank, port, module, batch, path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    return load(f"{path}0"), load(f"{path}1")


@pytest.mark.parametrize(
    ("script", "setting"),
    [
        (train_ddpm_patches_4gpu, "diffusion=ddpm"),
        (train_ddpm_patches_4gpu, "diffusion=flow"),
        (train_vqgan_patches_4gpu, "quantizer=vq"),
        (train_vqgan_patches_4gpu, "quantizer=kl"),
    ],
)
def test_two_processes_with_two_patches_each_learn_as_one_with_four(script, setting, workshop, elsewhere):
    stage = workshop.ddpm if script is train_ddpm_patches_4gpu else [*workshop.vqgan, "model.disc_start=0"]
    made = built(script, *stage, setting, "model.batch_size=4", "model.patches_per_volume=8")
    batch = {key: value for key, value in made.batch.items() if isinstance(value, torch.Tensor)}
    if script is train_ddpm_patches_4gpu:
        made.module.latent_scale.std.fill_(1)
    else:
        made.module.vqgan.init_linear_from(batch["ct"])  # as at the start of a training
    made.module.train()
    first, second = of_two_processes(made.module, batch, elsewhere / "gradients")
    alone = gradients(made.module, batch)
    assert alone.keys() == first.keys()
    assert sum(float(gradient.abs().sum()) for gradient in alone.values()) > 0.01
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "batch_size", "processes", "times"),
    [
        (8, 2, 4, 1),
        (8, 2, 2, 2),
        (8, 2, 1, 4),
        (8, 1, 1, 8),
        (8, 4, 4, 1),
        (8, 16, 1, 1),
        (8, 3, 1, 3),
        (None, 2, 1, 1),
    ],
)
def test_batches_add_up_to_the_guides_step(wanted, batch_size, processes, times, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert _accumulated(wanted, batch_size) == times


ADDED_UP = [*LENGTH, "model.patches_per_volume=8", "model.effective_batch=8"]  # 3 epochs of 16 batches, 4 steps


@pytest.fixture(scope="module")
def uninterrupted(workshop, tmp_path_factory):
    """The last checkpoint of a training whose steps add up four batches, and its draws."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *ADDED_UP, f"run_dir={folder}", f"checkpoint_dir={folder}")
    return load(folder / "last.ckpt"), list(Record.seen)


def test_an_epoch_has_as_many_steps_as_on_four_gpus_and_the_log_says_so(workshop, elsewhere, caplog):
    with caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, *ADDED_UP, "model.lr_final=0.1")
    assert "8 patches a step: batches of 2 on 1 processes, the gradients of 4 added up" in caplog.text
    last = load(DDPM_CKPT)
    assert last["global_step"] == 12
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.1 * 1e-4)  # the schedule has ended


@pytest.mark.parametrize("how", [{}, {"signal": "SIGTERM"}])
@pytest.mark.parametrize("step", [2, 3, 4, 7])
def test_a_training_that_adds_up_goes_on_exactly(step, how, workshop, uninterrupted, elsewhere):
    command = [*workshop.ddpm, *ADDED_UP]
    with pytest.raises((Stopped, SystemExit)):
        run(train_ddpm_patches_4gpu, *command, stop_at(step, **how))
    stopped_at = load(DDPM_CKPT)["global_step"]
    assert stopped_at == (step + 1 if how else step // 2 * 2)
    run(train_ddpm_patches_4gpu, *command)
    assert Record.seen == uninterrupted[1][4 * stopped_at :]
    assert_same(load(DDPM_CKPT), uninterrupted[0])


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_training_goes_on_at_its_patch_with_other_batches(step, workshop, uninterrupted, elsewhere):
    """As with fewer GPUs, or more."""
    with pytest.raises(SystemExit):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, *ADDED_UP, stop_at(step - 1, signal="SIGTERM"))
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *ADDED_UP, "model.batch_size=1")
    drawn, whole = ([key for _, keys in seen for key in keys] for seen in (Record.seen, uninterrupted[1]))
    assert drawn == whole[8 * step :]
    assert load(DDPM_CKPT)["global_step"] == 12


def test_what_cannot_be_had_exactly_is_said(workshop, elsewhere, caplog):
    with caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.batch_size=3", "model.effective_batch=8")
    assert "9 patches a step" in caplog.text
    assert "model.effective_batch=8 cannot be had more nearly" in caplog.text


def test_the_default_is_the_guides_eight(workshop, elsewhere):
    assert built_ddpm(*workshop.ddpm, "model.effective_batch=8").cfg.trainer.accumulate_grad_batches == 4

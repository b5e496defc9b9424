"""What TensorBoard tells of a training of stage 2 besides its losses: by noise, for sweeps, in pictures."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

import train_ddpm_patches_4gpu
from dataset.store.store import VolumeStore
from ddpm.plan import Grid, SamplingPlan
from ddpm.while_training import draw_while_training
from evaluation.pictures import PANEL
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.training import pictures
from pipeline.training.sweeps import METRICS
from tests.forks import forked
from tests.test_throughput import logged
from tests.tiny import DDPM_CKPT, built_ddpm, load, run

OFTEN = [
    "model.train_lr=0.01",
    "model.pictures_every_minutes=1e-9",
    "trainer.log_every_n_steps=2",
    "model.max_epochs=2",
]


def shown(folder="outputs/ddpm_4gpu_patches/tensorboard"):
    """Pictures by tag, with their steps."""
    events = EventAccumulator(str(folder), {"images": 0}).Reload()
    return {tag: events.Images(tag) for tag in events.Tags()["images"]}


def test_validation_losses_are_told_apart_by_noise(workshop, elsewhere, monkeypatch):
    module, told = built_ddpm(*workshop.ddpm).module, {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: told.setdefault(name, value))
    batches = [([1.0, 2.0], [0.1, 0.2]), ([6.0], [0.001]), ([5.0, 7.0], [1.0, 0.9])]
    module.on_validation_epoch_start()
    for errors, t in batches:
        monkeypatch.setattr(module, "_errors", lambda *_, **__: (torch.tensor(errors), torch.tensor(t), ()))  # noqa: B023
        module.validation_step({"sample_key": torch.zeros(len(t))}, 0)
    module.on_validation_epoch_end()
    told.pop("val/loss")
    assert told == pytest.approx({"val_by_noise/0.0-0.2": 3.0, "val_by_noise/0.8-1.0": 6.0})


def test_a_run_tells_its_losses_by_noise_and_its_settings(workshop):
    folder = workshop.folder / "outputs" / "ddpm_4gpu_patches" / "tensorboard"
    scalars = logged(folder)
    (by_noise,) = (events for tag, events in scalars.items() if tag.startswith("val_by_noise/"))  # its only draw
    assert by_noise[0].value == pytest.approx(scalars["val/loss"][0].value)
    written = EventAccumulator(str(folder)).Reload().PluginTagToContent(metadata.PLUGIN_NAME)
    start = plugin_data_pb2.HParamsPluginData.FromString(written[metadata.SESSION_START_INFO_TAG]).session_start_info
    assert start.hparams["model.train_lr"].number_value == 1e-4
    assert start.hparams["diffusion.prediction"].string_value == "v"
    table = plugin_data_pb2.HParamsPluginData.FromString(written[metadata.EXPERIMENT_TAG]).experiment
    assert {metric.name.tag for metric in table.metric_infos} == set(METRICS)


@pytest.fixture
def at_any_pace(monkeypatch):
    """A tiny step takes no hundred times as long as a tiny picture."""
    monkeypatch.setattr(pictures, "SHARE", 1e9)


def test_validation_patients_are_drawn_and_training_does_not_change_by_it(workshop, elsewhere, at_any_pace):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *OFTEN)
    with_pictures = load(DDPM_CKPT)
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *OFTEN, "model.pictures_every_minutes=null", "model.name=without")
    without = load("checkpoints/without/last.ckpt")
    assert with_pictures["state_dict"].keys() == without["state_dict"].keys()
    for name, values in without["state_dict"].items():
        assert torch.equal(values, with_pictures["state_dict"][name]), name
    assert not shown("outputs/without/tensorboard")
    (tag, events), *_ = shown().items()
    assert tag == "drawn/1"
    assert [event.step for event in events] == [2, 4, 6, 8]
    first, last = (np.asarray(Image.open(BytesIO(event.encoded_image_string))) for event in (events[0], events[-1]))
    column = slice(first.shape[1] - PANEL, None)  # sagittal planes
    rows = [slice(60 + i * (PANEL + 20), 40 + (i + 1) * (PANEL + 20)) for i in range(4)]
    same = [np.array_equal(first[row, column], last[row, column]) for row in rows]
    assert same == [True, True, False, False]  # real, through the codec, drawn with and without X-ray
    for row in rows:
        assert first[row, column].std() > 5  # something is to be seen


def test_what_is_drawn_is_what_the_checkpoint_would_draw(workshop, elsewhere):
    sampler, store = CTSampler(workshop.ddpm_ckpt, device="cpu"), VolumeStore(workshop.store)
    case = store.split("val")[0]
    grid, made, stored = Grid(case.shape, case.spacing), built_ddpm(*workshop.ddpm), load(workshop.ddpm_ckpt)
    made.module.load_state_dict(stored["state_dict"])
    average = next(v for k, v in stored["callbacks"].items() if k.startswith("WeightAverage"))["average"]
    patient = made.data.val.patients.read(case, 0)
    for dropped in (False, True):
        drawn = draw_while_training(made.module, average, patient, grid, 3, dropped, seed=5)
        xray = sampler.stored_xray(store, case)
        plan = SamplingPlan(3, window_batch=1)
        expected = sampler.generator.latent(replace(xray, dropped=dropped), grid, plan, seed=5)
        torch.testing.assert_close(drawn, expected)
    assert all(p.requires_grad for p in made.module.denoiser.parameters())


def test_a_picture_that_finds_no_memory_ends_the_pictures_not_the_training(
    workshop, elsewhere, monkeypatch, caplog, at_any_pace
):
    asked = []

    def full(*_, **__):
        asked.append(1)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(pictures, "draw_while_training", full)
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *OFTEN)
    assert load(DDPM_CKPT)["global_step"] == 8
    assert len(asked) == 2  # with and without X-ray, once
    assert "no more pictures of drawn CTs in TensorBoard: no room" in caplog.text
    assert not shown()


def test_pictures_that_take_long_come_more_rarely_than_asked_for(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *OFTEN)
    assert [event.step for event in shown()["drawn/1"]] == [2]  # the next is due after a hundred times as long


@pytest.mark.slow
def test_two_ranks_share_the_pictures(workshop, elsewhere, at_any_pace):
    with forked(train_ddpm_patches_4gpu, *workshop.ddpm, *OFTEN, log=elsewhere / "log", processes=2) as ranks:
        assert [rank.status() for rank in ranks] == [0, 0], ranks[0].said
    (tag, events), *_ = shown().items()
    assert tag == "drawn/1"
    assert events
    assert load(DDPM_CKPT)["global_step"] == 4

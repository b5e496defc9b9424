"""What TensorBoard tells of a training of stage 2 besides its losses: by noise, for sweeps, in pictures."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from pipeline.training.sweeps import METRICS
from tests.test_throughput import logged
from tests.tiny import built_ddpm


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

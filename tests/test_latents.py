"""The latent cache gives what encoding on the fly gives."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import encode_latents
import train_ddpm_patches_4gpu
from common.geometry import padded_shape
from common.patches import grid_coords
from common.tensor_hash import tensor_hash
from dataset.store.latents import LatentCache, LatentWriter, stored_source
from dataset.store.store import VolumeStore
from dataset.xray_ctpa_patch_dataset import read_unit
from medclip_cond.tiny_random import TinyRandomEncoder
from pipeline.checkpoints.networks import load_codec
from tests.tiny import built_ddpm, load, run

MOST_PATCHES = 6 * 4 * 5  # of 16 voxels, 4 apart, in a padded volume of up to 36 x 28 x 32


@pytest.fixture(scope="module")
def far_sighted(workshop, tmp_path_factory):
    """The workshop's VQ-GAN with large convolutions: what it makes of a voxel depends on the voxels around."""
    content = load(workshop.vqgan_ckpt)
    stream = torch.Generator().manual_seed(0)
    for name, tensor in content["state_dict"].items():
        if name.startswith("vqgan.encoder.convs") and tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=stream) * 0.5)
    path = tmp_path_factory.mktemp("far_sighted") / "vqgan.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def cache(workshop, far_sighted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("far_sighted_latents")
    run(encode_latents, *encoding(workshop, far_sighted, folder), "tile=3")  # several tiles per volume
    return folder


def encoding(workshop, vqgan, folder):
    return [*workshop.encode, f"model.vqgan_ckpt={vqgan}", f"dataset.latents_dir={folder}"]


def training(workshop, far_sighted, folder):
    """Stage 2 on every patch of the volumes: inner ones, and those at faces, edges and corners."""
    covering = ["model.patch_draw=grid", "model.stride=[4,4,4]", f"model.patches_per_volume={MOST_PATCHES}"]
    sources = [f"model.vqgan_ckpt={far_sighted}", f"dataset.latents_dir={folder}"]
    return built_ddpm(*workshop.ddpm, *covering, *sources)


def close_to_half(found, expected):
    """Equal up to the rounding of float16."""
    torch.testing.assert_close(found, expected, rtol=2**-10, atol=2e-3 * float(expected.abs().max()))


def test_cached_latents_are_those_encoded_on_the_fly(workshop, far_sighted, cache, elsewhere):
    cached, fly = (training(workshop, far_sighted, f) for f in (cache, "none"))
    without_context, places, inner = [], set(), 0
    for i in range(len(fly.data.train)):
        b = fly.data.train[i]
        place = (b["patient_id"], *b["patch_coord"].tolist())
        if place in places:
            continue
        places.add(place)
        room = [-(-n // 4) * 4 - 16 for n in b["volume_shape"].tolist()]
        inner += all(0 < start < most for start, most in zip(place[1:], room, strict=True))
        a = cached.data.train[i]
        assert torch.equal(a["patch_coord"], b["patch_coord"])
        assert {"ct", "cxr"}.isdisjoint(a)
        expected = fly.module._raw_latents({"ct_context": b["ct_context"][None]})[0]
        close_to_half(a["latent"], expected)
        alone = fly.module._frozen[0].vqgan.encode(b["ct"][None])[0]
        without_context.append(float((alone - expected).abs().max()))
    cases = fly.data.train.cases
    assert len(places) == sum(
        len(grid_coords(padded_shape(case.shape, (16,) * 3), (16,) * 3, (4,) * 3)) for case in cases
    )
    assert 0 < inner < len(places) / 2
    assert min(without_context) > 0.05  # the context matters here, so it must have been there


def test_a_step_on_cached_latents_has_the_loss_of_a_step_on_the_fly(workshop, far_sighted, cache, elsewhere):
    cached, fly = (training(workshop, far_sighted, f) for f in (cache, "none"))
    fly.module.load_state_dict(cached.module.state_dict())
    losses = [float(made.module.loss(made.batch).detach()) for made in (cached, fly)]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_cached_xray_features_are_the_encoders(workshop, tiny_latents, elsewhere):
    made = built_ddpm(*workshop.ddpm, f"dataset.latents_dir={tiny_latents}")
    fly = built_ddpm(*workshop.ddpm, "dataset.latents_dir=none")
    item = made.data.train[0]
    features = TinyRandomEncoder(seed=0)(fly.data.train[0]["cxr"][None])
    close_to_half(item["xray_tokens"], features.tokens[0])
    close_to_half(item["xray_pooled"], features.pooled[0])


def test_mean_and_std_are_those_of_the_training_volumes(workshop, tiny_latents, elsewhere):
    store = VolumeStore(workshop.store)
    codec, _ = load_codec(workshop.vqgan_ckpt)
    every = []
    for case in store.split("train"):
        shape = tuple(-(-n // 4) * 4 for n in case.shape)
        ct = torch.from_numpy(read_unit(store, case, (0, 0, 0), shape, (-1000, 1000)))
        every.append(codec.encode_volume(ct[None]).flatten(1))
    latents = torch.cat(every, 1)
    scale = built_ddpm(*workshop.ddpm, f"dataset.latents_dir={tiny_latents}").module.latent_scale
    torch.testing.assert_close(scale.mean, latents.mean(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scale.std, latents.std(1, correction=0), rtol=1e-3, atol=1e-3)
    again = scale.restore(scale.normalize(latents.view(1, -1, 1, 1, latents.shape[1])))
    torch.testing.assert_close(again.flatten(2)[0], latents, rtol=1e-5, atol=1e-5)


def test_an_interrupted_encoding_goes_on_where_it_was(workshop, tmp_path):
    settings = encoding(workshop, workshop.vqgan_ckpt, tmp_path)
    run(encode_latents, *settings)
    finished = (tmp_path / "latents.json").read_bytes()
    (tmp_path / "latents.json").unlink()
    (tmp_path / "phantom0002.json").unlink()  # the last thing that is written of a volume
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")}
    run(encode_latents, *settings)
    renewed = {p.name for p in tmp_path.glob("*.npy") if p.stat().st_mtime_ns != times[p.name]}
    assert renewed == {"phantom0002.npy"}
    assert json.loads((tmp_path / "latents.json").read_bytes()) == json.loads(finished)
    assert not list(tmp_path.glob("*partial*"))


def test_the_processes_of_torchrun_share_the_volumes(workshop, tmp_path, monkeypatch):
    settings = encoding(workshop, workshop.vqgan_ckpt, tmp_path)
    written = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        run(encode_latents, *settings)
        written.append((len(list(tmp_path.glob("*.npy"))), (tmp_path / "latents.json").exists()))
    assert written == [(3, False), (5, True)]


def test_a_cache_that_is_being_written_is_not_passed_over(workshop, tiny_latents, tmp_path, refused):
    folder = shutil.copytree(tiny_latents, tmp_path / "latents")
    (folder / "latents.json").unlink()
    command = [*workshop.ddpm, f"dataset.latents_dir={folder}", "check=true"]
    message = refused(train_ddpm_patches_4gpu, *command)
    assert f"{folder} is not finished" in message
    assert "dataset.latents=never" in message
    run(train_ddpm_patches_4gpu, *command, "dataset.latents=never")


class Replace(pl.Callback):
    """Puts other latents in the place of those that a training reads, as encode_latents.py overwrite=true does."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1:
            Path("latents/latents.json").unlink()
            for path in Path("latents").glob("*.npy"):
                np.save("new.npy", np.load(path) * 0)
                os.replace("new.npy", path)


def test_a_training_does_not_go_on_with_latents_that_are_replaced(workshop, tiny_latents, elsewhere, refused):
    shutil.copytree(tiny_latents, "latents")
    settings = [*workshop.ddpm, "dataset.latents_dir=latents", "model.num_workers=2", "model.patches_per_volume=200"]
    message = refused(train_ddpm_patches_4gpu, *settings, "+callbacks.replace={_target_: tests.test_latents.Replace}")
    assert "encode_latents.py has replaced it meanwhile" in message


def test_overwrite_replaces_what_another_codec_made(workshop, far_sighted, tmp_path):
    run(encode_latents, *encoding(workshop, workshop.vqgan_ckpt, tmp_path))
    before = np.load(tmp_path / "phantom0000.npy")
    run(encode_latents, *encoding(workshop, far_sighted, tmp_path), "overwrite=true")
    assert (np.load(tmp_path / "phantom0000.npy") != before).any()
    made_by = json.loads((tmp_path / "latents.json").read_text())["codec_hash"]
    assert made_by == tensor_hash(load_codec(far_sighted)[0].vqgan)


def test_latents_on_disk_are_half_precision_channels_last(tiny_latents, workshop):
    case = VolumeStore(workshop.store).cases[0]
    stored = np.load(tiny_latents / f"{case.patient_id}.npy", mmap_mode="r")
    assert stored.dtype == np.float16
    assert stored.shape == (*(-(-n // 4) for n in case.shape), 4)


def test_new_patients_that_change_how_xrays_are_scaled_renew_the_xray_features_alone(workshop, tmp_path):
    store = VolumeStore(workshop.store)
    settings = encoding(workshop, workshop.vqgan_ckpt, tmp_path)
    run(encode_latents, *settings)
    case, shapes = store.cases[0], {p: np.load(p, mmap_mode="r").shape[:3] for p in tmp_path.glob("*.npy")}
    shape = shapes[tmp_path / f"{case.patient_id}.npy"]
    info = json.loads((tmp_path / "latents.json").read_text())
    source = stored_source(info)
    moved = {kind: (low - 0.1, high + 0.1) for kind, (low, high) in store.xray_ranges.items()}
    LatentCache(tmp_path, source, [case], [shape], store.xray_ranges)
    with pytest.raises(ValueError, match=r"(?s)does not fit volume .*xray_range.*encode_latents\.py makes anew"):
        LatentCache(tmp_path, source, [case], [shape], moved)
    old, now = (LatentWriter(tmp_path, source, ranges) for ranges in (store.xray_ranges, moved))
    assert (old.has_xray(case), now.has_xray(case)) == (True, False)
    assert now.has_latents(case, shape)
    assert not now.is_written(case, shape)
    other_encoder = LatentWriter(tmp_path, replace(source, encoder_hash="other"), store.xray_ranges)
    assert not other_encoder.has_xray(case)


def test_a_store_without_training_cases_is_refused_before_anything_is_encoded(workshop, tmp_path, refused):
    shutil.copytree(workshop.store, tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"split": "train"', '"split": "val"'))
    settings = [*encoding(workshop, workshop.vqgan_ckpt, tmp_path / "latents"), f"dataset.store={tmp_path}/store"]
    assert "no cases in split 'train'" in refused(encode_latents, *settings)
    assert not list((tmp_path / "latents").glob("*.npy"))


def test_only_what_is_missing_of_a_case_is_encoded(workshop, tmp_path):
    settings = encoding(workshop, workshop.vqgan_ckpt, tmp_path)
    run(encode_latents, *settings)
    features = tmp_path / "phantom0001.npz"
    before, written = dict(np.load(features)), latent_times(tmp_path)
    np.savez(features, tokens=0, pooled=0, identity="of other ranges")
    run(encode_latents, *settings)
    assert latent_times(tmp_path) == written
    assert before.keys() == dict(np.load(features)).keys()
    for name, array in np.load(features).items():
        np.testing.assert_array_equal(array, before[name])


def test_the_room_that_latents_need_is_said_before_they_are_made(workshop, tmp_path, refused, monkeypatch, caplog):
    caplog.set_level("INFO")
    settings = encoding(workshop, workshop.vqgan_ckpt, tmp_path / "latents")
    run(encode_latents, *settings, "dataset.latent_dtype=int8")
    size = sum(path.stat().st_size - 128 for path in (tmp_path / "latents").glob("*.npy"))
    assert f"latents will take {size / 1e9:.3g} GB" in caplog.text
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * size - 1))
    run(encode_latents, *settings, "dataset.latent_dtype=int8")  # all are there
    said = refused(encode_latents, *settings, "overwrite=true")
    assert f"latents will take {2 * size / 1e9:.3g} GB" in said
    assert "dataset.latent_dtype=int8" in said


def latent_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}

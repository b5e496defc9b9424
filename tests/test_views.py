"""Several X-rays of a patient: read, stored, shown to the network, left out, drawn from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import encode_latents
import evaluate_ddpm_patches
import make_phantom_data
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from dataset.scans import camera as cam
from dataset.scans.volume_io import read_ct
from dataset.store.store import VolumeStore
from ddpm.plan import Grid, SamplingPlan
from pipeline.checkpoints.parts import complete
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import DDPM, FROZEN, PATCHES, PHANTOM, built_ddpm, run

VIEWS = "model.views=[lateral]"
ALONE = "phantom0000"  # has no lateral


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Phantoms with laterals, but one."""
    root = tmp_path_factory.mktemp("views")
    run(make_phantom_data, f"dataset.root={root}", *PHANTOM, "dataset.phantom.xray.lateral=true")
    rows = (root / "pairs.csv").read_text().replace(f"{ALONE}/lateral.png", "")
    (root / "pairs.csv").write_text(rows)
    run(prepare_data, f"dataset.root={root}", "dataset.prepare_workers=0")
    return root


@pytest.fixture(scope="module")
def store(root):
    return VolumeStore(root / "store")


@pytest.fixture
def settings(root, workshop, elsewhere):
    return [f"dataset.root={root}", *DDPM, f"model.vqgan_ckpt={workshop.vqgan_ckpt}", VIEWS]


@pytest.fixture(scope="module")
def trained(root, workshop, tmp_path_factory):
    """A checkpoint of a model that takes laterals, from cached latents."""
    folder = tmp_path_factory.mktemp("trained")
    where = [f"dataset.root={root}", f"model.vqgan_ckpt={workshop.vqgan_ckpt}", VIEWS]
    run(encode_latents, *where, *FROZEN, PATCHES[0], f"dataset.latents_dir={folder}/latents")
    there = [f"run_dir={folder}/run", f"checkpoint_dir={folder}"]
    cached = [f"dataset.latents_dir={folder}/latents", "dataset.latents=always"]
    run(train_ddpm_patches_4gpu, *where, *DDPM, *there, *cached, "model.train_lr=0.01")
    return folder


def case_of(store, name):
    return next(case for case in store.cases if case.patient_id == name)


def test_the_store_holds_further_xrays_with_their_cameras(root, store):
    for case in store.cases:
        assert set(case.views) == (set() if case.patient_id == ALONE else {"lateral"})
    case = case_of(store, "phantom0001")
    lateral = case.views["lateral"]
    assert (lateral.source, lateral.synthetic) == ("phantom0001/lateral.png", True)
    source, is_point = cam.ray_to_source(np.array(lateral.camera))
    assert not is_point
    np.testing.assert_allclose(source, [1, 0, 0], atol=1e-9)
    assert not np.array_equal(store.read_xray(case, view="lateral"), store.read_xray(case))
    assert {"drr", "uint16", "lateral uint16"} & store.xray_ranges.keys() == {"uint16", "lateral uint16"}


def test_a_lateral_shows_the_front_on_the_left_and_the_head_on_top(store):
    case = case_of(store, "phantom0001")
    camera = np.array(case.views["lateral"].camera)
    front, back, high = (cam.pixels(camera, place) for place in ([0, -80, 0], [0, 80, 0], [0, 0, 80]))
    assert front[0] < 255.5 < back[0]
    assert high[1] < 255.5
    hu = store.read_hu(case, (0, 0, 0), case.shape).astype(float)
    depth = (hu > -300).sum(2) * case.spacing[2]  # mm of body along the rays, (D, H)
    z, y = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(case.shape[:2], case.spacing[:2], strict=True))
    places = np.stack([np.zeros(depth.size), np.tile(y, len(z)), np.repeat(z, len(y))], 1)
    columns, rows = np.rint(cam.pixels(camera, places)).astype(int).T
    shown = store.read_xray(case, view="lateral")[rows, columns]
    right_way, mirrored = (np.corrcoef(shown, seen.ravel())[0, 1] for seen in (depth, depth[:, ::-1]))
    assert right_way > mirrored + 0.1


def test_items_show_every_view_and_which_are_there(settings, store):
    data = built_ddpm(*settings).data.train
    items = [data[i] for i in range(0, len(data), data.patches_per_volume)]
    batch = default_collate(items)
    assert batch["view_xray"].shape == (len(items), 1, 1, 512, 512)
    assert batch["view_cxr"].shape[:2] == (len(items), 1)
    for item in items:
        has = item["patient_id"] != ALONE
        assert item["view_present"].tolist() == [has]
        case = case_of(store, item["patient_id"])
        if has:
            np.testing.assert_array_equal(item["view_xray"][0, 0], store.read_xray(case, view="lateral"))
            np.testing.assert_allclose(item["view_camera"][0], case.views["lateral"].camera, rtol=1e-6)
    plain = built_ddpm(*settings[:-1]).data.train[0]
    assert not [key for key in plain if key.startswith("view")]


def test_cached_views_are_those_encoded_on_the_fly(settings, trained):
    fly = built_ddpm(*settings)
    kept = built_ddpm(*settings, f"dataset.latents_dir={trained}/latents", "dataset.latents=always")
    batch, cached = (default_collate([made.data.train[i] for i in range(4)]) for made in (fly, kept))
    for one, other in zip(fly.module._features(batch, "view_"), kept.module._features(cached, "view_"), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_a_cache_without_the_views_is_refused(settings, workshop, tmp_path, refused):
    encode = [*settings[:1], *FROZEN, PATCHES[0], f"model.vqgan_ckpt={workshop.vqgan_ckpt}"]
    run(encode_latents, *encode, f"dataset.latents_dir={tmp_path}/plain")
    said = refused(train_ddpm_patches_4gpu, *settings, f"dataset.latents_dir={tmp_path}/plain")
    assert "encode_latents.py adds them" in said
    run(encode_latents, *encode, f"dataset.latents_dir={tmp_path}/plain", VIEWS)
    built_ddpm(*settings, f"dataset.latents_dir={tmp_path}/plain")


def test_a_view_that_nobody_has_is_refused(settings, refused):
    said = refused(train_ddpm_patches_4gpu, *settings[:-1], "model.views=[lateral,xray_2]")
    assert "no training case" in said
    assert "an X-ray xray_2" in said


def test_training_leaves_out_views_by_the_key_of_a_sample(settings):
    module = built_ddpm(*settings, "model.view_dropout=0.5").module
    batch = {"sample_key": torch.arange(400), "view_present": torch.arange(400)[:, None] % 4 > 0}
    batch |= {name: torch.zeros(400, 1, 1) for name in ("view_xray", "view_camera", "view_pooled", "view_tokens")}
    batch["xray_tokens"] = torch.zeros(1)
    missing = module.train()._views(batch)[-1]
    assert missing[::4].all()
    assert 0.4 < missing[batch["view_present"]].float().mean() < 0.6
    some = {key: value[200:] for key, value in batch.items() if key != "xray_tokens"} | {"xray_tokens": 0}
    assert torch.equal(module._views(some)[-1], missing[200:])
    assert torch.equal(module.eval()._views(batch)[-1], ~batch["view_present"])


def test_a_training_step_takes_patients_with_and_without_it(settings, trained):
    made = built_ddpm(*settings, "model.condition_dropout=0", f"dataset.latents_dir={trained}/latents")
    batch = default_collate([made.data.train[i] for i in range(0, 8, 2)])
    assert batch["view_present"].unique().tolist() == [False, True]
    made.module.train().loss(batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.module.denoiser.parameters())


def test_the_lateral_changes_the_ct_and_may_be_left_out(root, trained, workshop, elsewhere):
    command = [f"xray={workshop.xray}", f"ckpt={trained}/last.ckpt", "shape=[16,16,16]", "steps=2", "device=cpu"]
    laterals = [root / "phantom0001" / "lateral.png", root / "phantom0002" / "lateral.png"]
    for name, lateral in (("none", None), *((path.parent.name, path) for path in laterals)):
        run(sample_ddpm_patches, *command, f"output={name}.nii.gz", *([f"lateral={lateral}"] if lateral else []))
    none, first, second = (read_ct(f"{name}.nii.gz").hu for name in ("none", "phantom0001", "phantom0002"))
    assert (none != first).any()
    assert (first != second).any()
    facts = json.loads(Path("phantom0001.json").read_text())
    assert facts["views"]["lateral"].keys() == {"sha256", "camera"}
    assert "views" not in json.loads(Path("none.json").read_text())


def test_folders_of_xrays_and_laterals_go_together_by_name(root, trained, elsewhere, refused):
    for folder, which in (("pa", "{0}_pa_drr"), ("lat", "lateral")):
        Path(folder).mkdir()
        for name in ("phantom0001", "phantom0002"):
            for suffix in (".png", ".json"):
                source = root / name / f"{which.format(name)}{suffix}"
                Path(folder, f"{name}{suffix}").write_bytes(source.read_bytes())
    Path("lat/phantom0002.png").unlink()
    command = ["xray=pa", f"ckpt={trained}/last.ckpt", "shape=[16,16,16]", "steps=1", "device=cpu", "output=out"]
    assert "give a folder" in refused(sample_ddpm_patches, *command, "lateral=lat/phantom0001.png")
    run(sample_ddpm_patches, *command, "lateral=lat")
    told = {name: json.loads(Path(f"out/{name}.json").read_text()) for name in ("phantom0001", "phantom0002")}
    assert {name: set(facts.get("views", ())) for name, facts in told.items()} == {
        "phantom0001": {"lateral"},
        "phantom0002": set(),
    }


def test_a_checkpoint_without_views_refuses_one(root, workshop, elsewhere, refused):
    lateral = f"lateral={root}/phantom0001/lateral.png"
    command = [f"xray={workshop.xray}", f"ckpt={workshop.ddpm_ckpt}", "output=a.nii.gz", "steps=1", "device=cpu"]
    assert "model.views of its training" in refused(sample_ddpm_patches, *command, lateral)


def test_a_wrong_xray_swaps_all_views_of_a_case(root, store, trained, elsewhere, monkeypatch):
    model, drawn = CTSampler(f"{trained}/last.ckpt", device="cpu"), []

    def draw(self, xray, grid, plan, seed):
        drawn.append((xray.dropped, xray))
        return np.zeros(grid.shape, np.int16)

    monkeypatch.setattr(CTSampler, "draw", draw)
    run(evaluate_ddpm_patches, f"dataset.root={root}", f"ckpt={trained}/last.ckpt", "split=train", "device=cpu")
    assert drawn
    looks = {case.patient_id: model.stored_xray(store, case) for case in store.cases}
    for _, xray in drawn:
        (name,) = [name for name, look in looks.items() if torch.equal(look.xray, xray.xray)]
        assert set(xray.views) == set(looks[name].views)
        assert all(torch.equal(xray.views[v].xray, looks[name].views[v].xray) for v in xray.views)


def test_without_an_xray_no_view_leaves_a_trace(store, trained):
    model = CTSampler(f"{trained}/last.ckpt", device="cpu")
    generator, grid = model.generator, Grid((16, 16, 16), (9.0, 9.0, 9.0))
    looks = [model.stored_xray(store, case_of(store, f"phantom000{i}")) for i in (1, 2)]
    plan = generator.settle(SamplingPlan(steps=2), looks[0], grid)
    latents = [generator.latent(replace(look, dropped=True), grid, plan, 1) for look in looks]
    assert torch.equal(*latents)
    assert not torch.equal(latents[0], generator.latent(looks[0], grid, plan, 1))


def test_old_descriptions_have_no_views():
    assert complete({"part": "PatchDenoiser"})["views"] == []

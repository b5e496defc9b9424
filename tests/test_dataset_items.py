"""What an item of `XrayCTPAPatchDataset` holds."""

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.geometry import padded_shape
from common.patches import grid_coords
from dataset.scans.camera import PARALLEL, Film
from dataset.store.store import VolumeStore
from dataset.xray_ctpa_patch_dataset import EncoderInput, XrayCTPAPatchDataset, extract_patches_3d, stitch_patches
from pipeline.cli import composed
from pipeline.settings import plain, sizes_of
from pipeline.training.data import make_dataset

WINDOW = (-1000.0, 1000.0)
CONTEXT = 8


@pytest.fixture(scope="module")
def store(tiny_data):
    return VolumeStore(tiny_data.store)


def dataset(store, cases=None, **changes):
    wanted = {"patch_size": (16, 12, 20), "patches_per_volume": 6, "hu_window": WINDOW, "xray_fov_mm": 400, "seed": 3}
    return XrayCTPAPatchDataset(store, cases or store.cases, **(wanted | changes))


def whole(store, case, margin=0, size=(0, 0, 0), window=WINDOW):
    """The volume in [-1, 1], padded with -1 to at least `size` and by `margin` on all sides."""
    low, high = window
    unit = 2 * (np.clip(store.read_hu(case, (0, 0, 0), case.shape).astype(float), low, high) - low) / (high - low) - 1
    room = [(margin, margin + max(0, wanted - n)) for n, wanted in zip(case.shape, size, strict=True)]
    return np.pad(unit, room, constant_values=-1)


def cut(volume, start, size):
    return volume[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]


def test_an_item_is_what_the_design_says(store):
    item = dataset(store, context=CONTEXT)[0]
    expected = {
        "ct": (torch.float32, (1, 16, 12, 20)),
        "ct_context": (torch.float32, (1, 32, 28, 36)),
        "cxr": (torch.float32, (3, 224, 224)),
        "target": (torch.float32, (1,)),
        "patch_coord": (torch.int64, (3,)),
        "xray": (torch.float32, (1, 512, 512)),
        "xray_camera": (torch.float32, (3, 4)),
        "spacing": (torch.float32, (3,)),
        "volume_shape": (torch.int64, (3,)),
        "sample_key": (torch.int64, ()),
        "draw": (torch.int64, ()),
    }
    assert {k: (v.dtype, tuple(v.shape)) for k, v in item.items() if k != "patient_id"} == expected
    assert item["patient_id"] == store.cases[0].patient_id
    assert 0 <= int(item["sample_key"]) < 2**32
    assert -1 <= item["ct"].min() < item["ct"].max() <= 1
    assert 0 <= item["xray"].min() < item["xray"].max() <= 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_store_alone_gives_what_a_training_with_the_shipped_config_draws(tiny_data, store, split):
    cfg = composed("train_ddpm", ["dataset.root=/data"])
    wanted = make_dataset(cfg, store, split, *sizes_of(cfg.model))
    for given in (store, tiny_data.store, str(tiny_data.root)):
        found = XrayCTPAPatchDataset.from_store(given, split)
        assert len(found) == len(wanted) == 42 * len(store.split(split))
        last = len(wanted) - 1
        for name, value in wanted[last].items():
            assert torch.equal(found[last][name], value) if torch.is_tensor(value) else found[last][name] == value


def test_settings_come_before_what_is_shipped(store):
    found = XrayCTPAPatchDataset.from_store(store, patch_size=(8, 8, 8), hu_window=(-500.0, 500.0), seed=1)
    assert (found.patch_size, found.hu_window, found.seed) == ((8, 8, 8), (-500.0, 500.0), 1)


def test_a_store_that_is_not_there_or_lacks_the_split_is_refused(store, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py"):
        XrayCTPAPatchDataset.from_store(tmp_path)
    with pytest.raises(UserError, match="no cases in split 'test'"):
        XrayCTPAPatchDataset.from_store(store, "test")


def test_iterating_gives_one_epoch(store):
    data = dataset(store)
    keys = [int(item["sample_key"]) for item in islice(data, 10 * len(data))]
    assert keys == [int(data[i]["sample_key"]) for i in range(len(data))]


def test_without_context_there_is_none(store):
    assert "ct_context" not in dataset(store)[0]


def test_a_patch_is_the_volume_at_its_coordinate(store):
    data = dataset(store, context=CONTEXT)
    for i in range(len(data)):
        item, case = data[i], data.cases[i // 6]
        start = item["patch_coord"].tolist()
        size = padded_shape(case.shape, data.patch_size)
        np.testing.assert_allclose(item["ct"][0], cut(whole(store, case, 0, size), start, data.patch_size), atol=1e-6)
        around = cut(whole(store, case, CONTEXT, size), start, [n + 2 * CONTEXT for n in data.patch_size])
        np.testing.assert_allclose(item["ct_context"][0], around, atol=1e-6)
        inner = (slice(None), *(slice(CONTEXT, -CONTEXT),) * 3)
        assert torch.equal(item["ct_context"][inner], item["ct"])


def test_starts_are_whole_latent_voxels_all_over_the_volume(store):
    data = dataset(store, store.cases[:1], patches_per_volume=500)
    case = data.cases[0]
    starts = {data._start(case, 0, i) for i in range(len(data))}
    shape = padded_shape(case.shape, data.patch_size)
    possible = set(product(*(range(0, n - p + 1, 4) for n, p in zip(shape, data.patch_size, strict=True))))
    assert starts == possible


def test_a_volume_smaller_than_a_patch_is_padded_at_the_high_end(store):
    data = dataset(store, patch_size=(40, 32, 36))
    item, case = data[0], data.cases[0]
    d, h, w = case.shape
    assert item["patch_coord"].tolist() == [0, 0, 0]
    assert item["volume_shape"].tolist() == [d, h, w]
    assert max(float(item["ct"][0, d:].max()), float(item["ct"][0, :, h:].max())) == -1
    np.testing.assert_allclose(item["ct"][0, :d, :h, :w], whole(store, case), atol=1e-6)


def test_the_window_is_that_of_the_settings_not_of_the_volume(store):
    data = dataset(store, hu_window=(-200, 300))
    item = data[0]
    expected = whole(store, data.cases[0], 0, padded_shape(data.cases[0].shape, data.patch_size), (-200, 300))
    np.testing.assert_allclose(item["ct"][0], cut(expected, item["patch_coord"].tolist(), data.patch_size), atol=1e-6)


def test_spacing_label_and_geometry_are_those_of_the_case(store):
    data = dataset(store)
    item, case = data[7], data.cases[1]
    np.testing.assert_allclose(item["spacing"], case.spacing, rtol=1e-6)
    np.testing.assert_allclose(item["xray_camera"], case.xray_camera, rtol=1e-6)
    assert float(item["target"]) == case.target


def test_what_a_case_does_not_know_has_its_default(store):
    film = Film("ap", 1100.0, 50.0)
    for synthetic, expected in ((False, film), (True, PARALLEL)):
        case = replace(store.cases[0], target=None, xray_camera=None, xray_synthetic=synthetic)
        item = dataset(store, [case], xray_fov_mm=300, film=film)[0]
        assert torch.isnan(item["target"]).all()
        np.testing.assert_allclose(item["xray_camera"], expected.square(512, 300), rtol=1e-6)


def test_shipped_films_are_the_classes_default():
    assert Film(**plain(composed("prepare_data", ["dataset.root=."]).dataset.film)) == Film()


def test_the_encoders_view_is_the_whole_xray_normalised_for_it(store):
    eye = EncoderInput(64, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    item = dataset(store, encoder_input=eye)[0]
    back = item["cxr"] * torch.tensor(eye.std).view(3, 1, 1) + torch.tensor(eye.mean).view(3, 1, 1)
    assert back.shape == (3, 64, 64)
    torch.testing.assert_close(back[0], back[2], atol=1e-6, rtol=0)
    coarse = torch.nn.functional.avg_pool2d(item["xray"], 8)[0]
    assert (back[0] - coarse).abs().mean() < 0.02


def test_an_item_is_the_same_every_time_and_another_in_another_epoch(store):
    data = dataset(store)
    first, again, later = data[5], data[5], data[5 + len(data)]
    assert all(torch.equal(first[k], again[k]) for k in ("ct", "sample_key", "patch_coord"))
    assert later["patient_id"] == first["patient_id"]
    assert int(later["draw"]) == int(first["draw"]) == 5
    assert int(later["sample_key"]) != int(first["sample_key"])
    places = [[tuple(data[i + e * len(data)]["patch_coord"].tolist()) for i in range(6)] for e in range(2)]
    assert places[0] != places[1]


def test_a_seed_draws_its_own_patches(store):
    keys = [{int(dataset(store, seed=s)[i]["sample_key"]) for i in range(10)} for s in (3, 4)]
    assert not keys[0] & keys[1]


def test_patches_from_the_grid_cover_a_volume(store):
    size, stride = (16, 12, 20), (12, 8, 16)
    case = store.cases[0]
    count = len(grid_coords(padded_shape(case.shape, size), size, stride))
    data = dataset(store, [case], patch_size=size, stride=stride, patches_per_volume=count)
    starts = {tuple(data[i]["patch_coord"].tolist()) for i in range(count)}
    assert starts == {tuple(c) for c in grid_coords(padded_shape(case.shape, size), size, stride).tolist()}


def test_the_guides_geometry_comes_from_this_module():
    volume = torch.arange(2 * 5 * 6 * 7.0).view(2, 5, 6, 7)
    patches, coords = extract_patches_3d(volume, (3, 4, 4), (2, 3, 4))
    torch.testing.assert_close(stitch_patches(patches, coords, (5, 6, 7)), volume)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"patch_size": (130, 128, 128)}, r"\[130, 128, 128\]; nearest is \[128"), ({"patch_size": (16, 16)}, "three")],
)
def test_sizes_that_do_not_fit_are_refused(changes, said, store):
    with pytest.raises(ValueError, match=said):
        dataset(store, **changes)


def test_a_dataset_needs_cases(store):
    with pytest.raises(ValueError, match="no cases"):
        XrayCTPAPatchDataset(store, [], (16, 16, 16), 1, WINDOW, 400, 0)


def test_patches_that_overhang_a_volume_hold_the_floor_there(store):
    size = (16, 12, 12)
    data = dataset(store, store.cases[:1], patch_size=size, patches_per_volume=100, overhang=4)
    (case,) = data.cases
    ends = [n - p for n, p in zip(padded_shape(case.shape, size), size, strict=True)]
    starts = np.array([data._start(case, 0, draw) for draw in range(100)])
    volume = whole(store, case, margin=16)
    low, high = starts.min(1).argmin(), (starts - ends).max(1).argmax()
    assert starts[low].min() < 0 < (starts - ends)[high].max()
    for draw in (low, high):
        expected = cut(volume, [16 + s for s in starts[draw]], size)
        np.testing.assert_allclose(data[int(draw)]["ct"][0], expected, atol=1e-6)


def test_latents_do_not_overhang(store):
    with pytest.raises(ValueError, match="overhang must be 0 with them, got 4"):
        dataset(store, overhang=4, latents=object())


def test_draws_of_a_patient_read_the_xray_once(store, monkeypatch):
    reads = []
    blank = np.zeros((512, 512), "f4")
    monkeypatch.setattr(store, "read_xray", lambda case, **_: reads.append(case.patient_id) or blank)
    data = dataset(store)
    for index in (0, 1, 6, 2, 7):
        assert data[index]["patient_id"] == data.cases[index // 6].patient_id
    assert reads == [data.cases[0].patient_id, data.cases[1].patient_id]

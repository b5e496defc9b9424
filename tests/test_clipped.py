"""CTs that were clipped are for trainings whose window lies within what is left, from preparing on."""

import pytest

import prepare_data
import train_vqgan_patches_4gpu
from dataset.store.store import VolumeStore
from tests.pairs import add_case, add_ct, thorax
from tests.tiny import VQGAN, run

INSIDE = "dataset.hu_window=[-200,30]"


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for seed in range(3):
        add_case(root, f"p{seed}", seed)
        add_ct(root, f"p{seed}", thorax(seed).clip(-200, 500))
    return [
        f"dataset.root={root}",
        "dataset.prepare_workers=0",
        "dataset.pair_check=off",
        f"dataset.store={tmp_path}/store",
    ]


def test_the_window_decides_and_stays_decisive(data, tmp_path, elsewhere, refused):
    message = refused(prepare_data, *data)
    assert "values clipped to -200 HU and more; dataset.hu_window is [-1000, 1000]" in message
    assert "dataset.hu_window=[-200,1000] for all" in message
    run(prepare_data, *data, INSIDE, "strict=true")
    assert len(VolumeStore(tmp_path / "store").cases) == 3
    run(train_vqgan_patches_4gpu, *data, *VQGAN, INSIDE, "check=true")
    message = refused(train_vqgan_patches_4gpu, *data, *VQGAN, "check=true")
    assert "clipped to -200 HU and more, but dataset.hu_window begins at -1000" in message

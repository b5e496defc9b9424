import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataset.datamodule import PatchDataModule
from dataset.store.store import VolumeStore
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
from tests.processes import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def patches(tiny_data):
    """Six patches of one volume."""
    store = VolumeStore(tiny_data.store)
    return XrayCTPAPatchDataset(store, store.cases[:1], (8, 8, 8), 6, (-1000.0, 1000.0), xray_fov_mm=400, seed=0)


def on(rank, world, module):
    strategy = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)
    return module


def test_every_process_gets_equally_many_batches(patches):
    loaders = [on(rank, 2, PatchDataModule(patches, patches, 3, 0)).train_dataloader() for rank in range(2)]
    assert [len(list(loader)) for loader in loaders] == [1, 1]


def test_an_epoch_without_a_batch_is_refused_also_where_several_processes_share_it(patches):
    with pytest.raises(ValueError, match="has 6 patches, fewer than one batch of 7"):
        PatchDataModule(patches, patches, 7, 0)
    module = on(0, 4, PatchDataModule(patches, patches, 3, 0))
    with pytest.raises(ValueError, match=r"2 patches for each of 4 processes.*lower model\.batch_size"):
        module.train_dataloader()


def test_a_process_ends_although_a_loader_of_its_is_still_at_work(tiny_data, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataset.datamodule import PatchDataModule
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
patches = XrayCTPAPatchDataset.from_store({str(tiny_data.store)!r}, patch_size=[16, 16, 16], patches_per_volume=40)
batches = iter(PatchDataModule(patches, patches, 1, 2).train_dataloader())
next(batches)
print("workers", len(batches._workers))
""")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "workers 2\n"), done.stderr

"""The benchmark of patch loading on a tiny volume, and what a worker keeps of a thousand patients."""

import json
import multiprocessing
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest

from benchmarks.loading import link_patients, open_patients
from dataset.store.store import VolumeStore, write_manifest, write_square_xray, write_volume
from tests.test_store import stored_case

PATIENTS = 1000
SIDE = 48


def read_from_all(folder, results):
    """Private memory before and after reading a patch of every patient."""
    data = open_patients(folder, SIDE)
    _ = data[0]
    before = psutil.Process().memory_full_info().uss
    for patient in range(PATIENTS):
        assert data[patient * data.patches_per_volume]["ct"].shape == (1, SIDE, SIDE, SIDE)
    results.put((before, psutil.Process().memory_full_info().uss))


def test_a_worker_keeps_little_of_a_thousand_patients(tmp_path):
    shape = (SIDE,) * 3
    case = replace(stored_case("p"), shape=shape, body_box=((0, 0, 0), shape))
    noise = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    write_volume(tmp_path / "one", "p", noise, case.source_hash)
    write_square_xray(tmp_path / "one", "p", np.full((512, 512), 0.5), case.source_hash)
    write_manifest(tmp_path / "one", [case])
    link_patients(VolumeStore(tmp_path / "one"), case, tmp_path / "many", PATIENTS)
    for path in (tmp_path / "many" / "volumes").iterdir():  # pages of one file in many maps would count as shared
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    worker = context.Process(target=read_from_all, args=(tmp_path / "many", results))
    worker.start()
    before, after = results.get(timeout=900)
    worker.join()
    assert after - before < PATIENTS * len(content) / 3


@pytest.mark.slow
def test_the_benchmark_prints_what_it_measured(tmp_path, monkeypatch, capfd):
    from benchmarks import patch_loading  # here: the worker above starts without MONAI

    settings = [f"out={tmp_path}", "size=48,64,56", "patch=32", "seconds=0.1"]
    monkeypatch.setattr(patch_loading, "PATIENTS", 5)
    monkeypatch.setattr(sys, "argv", ["patch_loading", *settings])
    patch_loading.main()
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    rates = result["crops_per_s"]
    assert set(rates) == {"nifti", "monai", "store", "latents64", "latents8"}
    assert result["ratio_store_vs_nifti"] == pytest.approx(rates["store"] / rates["nifti"], rel=0.05)
    assert result["ratio_latent_vs_nifti"] == pytest.approx(rates["latents64"] / rates["nifti"], rel=0.05)
    assert result["ratio_store_vs_monai"] == pytest.approx(rates["store"] / rates["monai"], rel=0.05)
    assert min(result["loader_crops_per_s"], result["prepare_seconds"], result["worker_private_mb"]) > 0
    assert 0 < result["gb_per_volume"] < 0.001
    assert list(tmp_path.iterdir()) == []  # cleaned up

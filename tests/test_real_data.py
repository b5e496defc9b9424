"""Real scans through every stage, small: a CT with a projection of it, then the real chest X-rays."""

import csv

import nibabel as nib
import numpy as np
import pytest
import torch

import encode_latents
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import write_xray
from dataset.store.store import VolumeStore
from tests.tiny import CHANNELS, DDPM, DDPM_CKPT, VQGAN, VQGAN_CKPT, load, run

SCANS = {"lidc": ("lidc_idri_0001/ct.nii.gz", (8, 8, 4)), "totalseg": ("totalseg_cta", (4, 4, 4))}
LARGER = ["model.patch_size=[32,32,32]", "model.patches_per_volume=4", "model.batch_size=2"]


def thin_copy(source, target, stride):
    """Every nth voxel of a NIfTI file, with the affine that keeps its place."""
    image = nib.Nifti1Image.from_filename(source)
    array = np.asarray(image.dataobj)[:: stride[0], :: stride[1], :: stride[2]]
    target.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(array, image.affine @ np.diag([*stride, 1])), target)


@pytest.fixture(scope="module")
def trained(shared_data, tmp_path_factory):
    """A folder in which both stages were trained on the two real CTs, each with a projection of it."""
    folder = tmp_path_factory.mktemp("real")
    rows = []
    for name, (source, stride) in SCANS.items():
        path = shared_data / source
        path = path if path.is_file() else next(path.glob("ct*.nii.gz"))
        ct = folder / "data" / name / f"{name}.nii.gz"
        thin_copy(path, ct, stride)
        volume = read_ct(ct)
        integrals, camera = frontal_drr(volume.hu, volume.spacing)
        write_xray(ct.parent / "drr.png", to_intensity(integrals), camera, synthetic=True)
        split = "train" if name == "lidc" else "val"
        rows.append({"patient_id": name, "ct": f"{name}/{name}.nii.gz", "xray": f"{name}/drr.png", "split": split})
    with (folder / "data" / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = ["dataset.root=data", "dataset.prepare_workers=0"]
        run(prepare_data, *data, "strict=true")
        run(train_vqgan_patches_4gpu, *data, *VQGAN, *LARGER)
        frozen = [f"model.vqgan_ckpt={VQGAN_CKPT}", "xray_encoder=tiny_random"]
        run(encode_latents, *data, *frozen, LARGER[0], f"model.diffusion_num_channels={CHANNELS}")
        run(train_ddpm_patches_4gpu, *data, *DDPM, *LARGER, *frozen)
    return folder


def test_both_stages_train_on_real_scans(trained):
    cases = {case.patient_id: case for case in VolumeStore(trained / "data" / "store").cases}
    assert cases["lidc"].shape == (34, 64, 64)
    assert (cases["lidc"].source_axes, cases["totalseg"].source_axes) == ("LAS", "LPS")
    assert cases["lidc"].hu_percentiles[0] < -900  # the air around the patient, not the -2048 of the scanner's rim
    for path in (VQGAN_CKPT, DDPM_CKPT):
        content = load(trained / path)
        assert content["global_step"] == 2
        assert all(torch.isfinite(v).all() for v in content["state_dict"].values())


@pytest.fixture(scope="module")
def drawn(trained, shared_data):
    """One CT per real chest X-ray, on the grid of the LIDC scan: X-ray file -> NIfTI."""
    films = sorted((shared_data / "cxr").glob("*.png"))
    where = [f"xray='{shared_data / 'cxr'}'", f"output={trained / 'cts'}", f"reference={reference(trained)}"]
    run(sample_ddpm_patches, *where, f"ckpt={trained / DDPM_CKPT}", "steps=2")
    return {film: trained / "cts" / f"{film.stem}.nii.gz" for film in films}


def reference(trained):
    return trained / "data" / "lidc" / "lidc.nii.gz"


def test_real_xrays_become_cts_on_the_scans_grid(trained, drawn):
    assert len(drawn) == 3
    scan = nib.load(reference(trained))
    for path in drawn.values():
        ct = nib.load(path)
        hu = np.asarray(ct.dataobj)
        assert ct.shape == scan.shape
        np.testing.assert_allclose(ct.affine, scan.affine, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(ct.header.get_zooms(), scan.header.get_zooms(), rtol=1e-5)
        assert hu.dtype == np.int16
        assert -1000 <= hu.min() < hu.max() <= 1000
        assert hu.std() > 1

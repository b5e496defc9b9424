"""Files read directly give what their store gives."""

import shutil

import pytest
import torch
from torch.utils.data import DataLoader

import encode_latents
import prepare_data
import train_ddpm_patches_4gpu
from dataset.prepare.conversion import Conversion
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.store.store import VolumeStore
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
from tests import damage
from tests.tiny import built_ddpm

CONVERTED = Conversion(spacing=(8.0, 6.0, 6.0), crop_to_body=True, make_xray=True)


@pytest.fixture
def root(tmp_path):
    """Four good cases, NIfTI and DICOM, one of them without an X-ray, and two bad ones."""
    folder = tmp_path / "pairs"
    for seed, name in enumerate(("a", "b", "cut", "copy")):
        damage.write_nifti_patient(folder, name, seed)
    damage.write_dicom_patient(folder, "d", 10)
    damage.write_nifti_patient(folder, "e", 11)
    cut = folder / "cut" / "cut.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    shutil.copy(folder / "cut" / "cut_pa_drr.png", folder / "copy" / "copy_pa_drr.png")
    return folder


def patches(store):
    return XrayCTPAPatchDataset(store, store.cases, (16, 12, 16), 5, (-1000.0, 1000.0), 400, seed=3, context=4)


@pytest.mark.parametrize("conversion", [Conversion(), CONVERTED])
def test_items_are_those_of_the_store_bit_for_bit(root, tmp_path, conversion):
    if conversion.make_xray:
        (root / "e" / "e_pa_drr.png").unlink()
    prepare(root, tmp_path / "store", conversion=conversion)
    stored, direct = VolumeStore(tmp_path / "store"), FileStore(root, conversion=conversion)
    assert direct.cases == stored.cases
    assert [case.patient_id for case in direct.cases] == ["a", "b", "d", "e"]
    assert direct.xray_ranges == stored.xray_ranges
    a, b = patches(stored), patches(direct)
    for index in range(len(a)):
        one, other = a[index], b[index]
        assert one.keys() == other.keys()
        assert one.pop("patient_id") == other.pop("patient_id")
        for key in one:
            assert torch.equal(one[key].nan_to_num(-9), other[key].nan_to_num(-9)), key
    assert not [path for path in root.rglob("*") if "store" in path.name]  # nothing was written


def test_loader_processes_read_them_too(root):
    data = patches(FileStore(root))
    alone = [data[index]["ct"] for index in range(len(data))]
    loaded = list(DataLoader(data, batch_size=None, num_workers=2))
    assert all(torch.equal(one, other["ct"]) for one, other in zip(alone, loaded, strict=True))


def test_problems_are_said_and_bad_data_refused(root, caplog):
    FileStore(root)
    assert "cut.nii.gz" in caplog.text
    for name in ("a", "b", "e"):
        (root / name / f"{name}.nii.gz").write_bytes(b"")
    shutil.rmtree(root / "d")
    with pytest.raises(ValueError, match=r"(?s)no good case in .*truncated"):
        FileStore(root)
    with pytest.raises(ValueError, match="give the spacing in mm"):
        FileStore(root, conversion=Conversion(spacing="median"))


def test_a_file_that_changes_meanwhile_is_not_mixed_in(root):
    store = FileStore(root)
    case, *others = store.cases
    damage.save(damage.Patient(root / "a", 99, "a.nii.gz", ""), store.read_hu(case, (0, 0, 0), case.shape) + 1)
    for other in others:  # few volumes stay in memory
        store.read_hu(other, (0, 0, 0), (1, 1, 1))
    with pytest.raises(ValueError, match="files of a in .* have changed"):
        store.read_hu(case, (0, 0, 0), (1, 1, 1))


def test_training_reads_files_when_there_is_to_be_no_store(workshop, elsewhere, refused):
    settings = [*workshop.ddpm, "dataset.store=null"]
    direct, stored = built_ddpm(*settings), built_ddpm(*workshop.ddpm, "dataset.latents=never")
    for index in range(len(stored.data.train)):
        one, other = direct.data.train[index], stored.data.train[index]
        assert torch.equal(one["ct_context"], other["ct_context"])
        assert torch.equal(one["cxr"], other["cxr"])
    for script, more in ((encode_latents, workshop.encode), (prepare_data, [workshop.data])):
        assert "dataset.store=FOLDER" in refused(script, *more, "dataset.store=null")
    assert "dataset.store=null" in refused(train_ddpm_patches_4gpu, *settings, "dataset.latents=always")

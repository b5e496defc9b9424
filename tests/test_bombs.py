"""Small files that would take much memory are refused before they do."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.errors import UserError
from common.npz_file import read_npz
from common.weights import read_weights
from dataset.prepare.run import prepare
from dataset.scans.dicom_io import read_dicom_ct
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import read_xray
from dataset.store.store import VolumeStore, write_square_xray
from dataset.store.stored_array import write_array
from tests import damage

MB = 1 << 20
MOST = 40 * MB  # readers' own needs for the small files here are far below


@contextmanager
def refused(match):
    """What is done within is refused, and takes no more memory than a small file needs."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match):
            yield
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def nifti(shape, dtype=np.int16, newer=False, **fields):
    """The header of a NIfTI file, as bytes."""
    header = (nib.Nifti2Header if newer else nib.Nifti1Header)()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.diag([1, 1, 1, 1]), "scanner")
    header["vox_offset"] = 544 if newer else 352
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + b"\0\0\0\0"


def zeros(gigabytes):
    """A gzip stream of so many GB, as members of 16 MB each."""
    return gzip.compress(bytes(16 * MB)) * int(gigabytes * 1024 / 16)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("newer", [False, True])
def test_a_nifti_header_of_30000_voxels_a_side(packed, dtype, newer, tmp_path):
    content = nifti((30000, 30000, 30000), dtype, newer) + bytes(1000)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    with refused(r"a\.nii.*a header of \(30000, 30000, 30000\)"):
        read_ct(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (nifti((20, 20, 20)), "more bytes behind"),  # a small CT, and what is not it
        (nifti((1290, 1290, 1290), np.float64), "a header of"),  # 17 GB that are there
        (nifti((20, 20, 20), vox_offset=1.9e10), "byte 1.9e"),
        (nifti((20, 20, 20), newer=True, vox_offset=2**34), "byte 1.72e"),
        (nifti((20, 20, 20), vox_offset=1.9e10, sizeof_hdr=7), "begins with the size of its header"),
    ],
)
def test_a_gzip_file_that_expands_to_20_gb(header, said, tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header) + zeros(20))
    assert path.stat().st_size < 30 * MB
    with refused(rf"a\.nii\.gz.*{said}"):
        read_ct(path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("kind", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Title\0\1\0\0\0"), (b"iCCP", b"icc\0\0")]
)
def test_a_png_whose_texts_unpack_to_more(kind, head, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((80, 80), np.uint8)).save(stream, "PNG")
    plain, packed = stream.getvalue(), zlib.compress(bytes(2 * MOST))
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk(kind, head + packed) + plain[33:])
    with refused(r"a\.png.*too large"):
        read_xray(tmp_path / "a.png")


def test_a_png_header_of_a_million_pixels_a_side(tmp_path):
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with refused(r"a\.png.*at most 80 million"):
        read_xray(tmp_path / "a.png")


def deflate(path):
    """Store a DICOM file deflated as a whole, with 4 GB of zeros behind it."""
    item = pydicom.dcmread(path)
    item.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    item.save_as(path, enforce_file_format=True)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    piece = packer.compress(bytes(16 * MB)) + packer.flush(zlib.Z_FULL_FLUSH)  # which may be repeated
    with path.open("ab") as file:
        file.write(piece * 256 + packer.flush())


def test_a_dicom_file_that_inflates_to_4_gb(tmp_path):
    patient = damage.write_dicom_patient(tmp_path, "p", 0)
    deflate(patient.slices[3])
    with refused(rf"{patient.slices[3].name}.*deflated"):
        read_dicom_ct(patient.ct)
    damage.film_dicom(1, {}, patient, np.random.default_rng(0))
    deflate(patient.xray)
    with refused("deflated"):
        read_xray(patient.xray)


@pytest.mark.parametrize(("module", "said"), [("dicom_slices", r"a header of 1 x"), ("dicom_io", r"slices of \d+ x")])
def test_a_series_of_more_voxels_than_any_ct(module, said, tmp_path, monkeypatch):
    patient = damage.write_dicom_patient(tmp_path, "p", 0)
    monkeypatch.setattr(f"dataset.scans.{module}.MAX_VOXELS", 100)
    with refused(f"a CT .*at most.*{said}"):
        read_dicom_ct(patient.ct)


def test_a_square_xray_of_another_size(tmp_path):
    patient = damage.write_nifti_patient(tmp_path / "data", "p", 0)
    (case,) = prepare(patient.folder.parent, tmp_path / "store").cases
    store = VolumeStore(tmp_path / "store")
    image = store.read_xray(case)
    path = tmp_path / "store" / "xrays" / "p.b2nd"
    write_array(path, np.zeros((2**13, 2**13), np.uint16), case.source_hash, 2**12)
    assert path.stat().st_size < MB
    with refused(r"p\.b2nd: the manifest says \(512, 512\), found \(8192, 8192\)"):
        store.read_xray(case)
    write_square_xray(tmp_path / "store", "p", image, case.source_hash)
    store.read_xray(case)


def npz(path, name, header, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(content, header)
        archive.writestr(name, content.getvalue() + data)


def test_arrays_that_claim_more_than_their_file_holds(tmp_path):
    path = tmp_path / "a.npz"
    about = {"descr": "<f2", "fortran_order": False, "shape": (2**30, 64)}
    npz(path, "tokens.npy", about, bytes(100))
    with refused(r"a\.npz.*tokens\.npy claims"):
        read_npz(path, "")
    npz(path, "tokens.npy", about | {"shape": (2**26,)}, bytes(2**27), zipfile.ZIP_DEFLATED)
    with refused(r"a\.npz.*compressed"):
        read_npz(path, "")
    npz(path, "tokens.npy", about | {"descr": "|O", "shape": (1,)}, bytes(100))
    with refused("Object arrays"):
        read_npz(path, "")
    path.write_bytes(b"PK")
    with refused("damaged"):
        read_npz(path, "")
    np.savez(path, tokens=np.arange(3), name=np.array("x"))
    assert {name: array.tolist() for name, array in read_npz(path, "").items()} == {"tokens": [0, 1, 2], "name": "x"}


def test_weights_that_claim_more_than_their_file_holds(tmp_path):
    path = tmp_path / "a.bin"
    torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, path)
    with refused(r"a\.bin is malformed: w claims"):
        read_weights(path, "")
    tied = torch.ones(1000)
    torch.save({"w": tied, "same": tied}, path)
    assert read_weights(path, "").keys() == {"w", "same"}
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "b.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with refused(r"b\.bin is no checkpoint of torch\.save"):
        read_weights(tmp_path / "b.bin", "")

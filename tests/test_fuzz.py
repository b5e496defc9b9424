"""Damaged files are reported, or hold what they held: none crashes the preparation, hangs it or slips in."""

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dataset.scans.xray_io import Xray, to_square
from dataset.store.store import VolumeStore, xray_path
from dataset.store.stored_array import open_array
from tests import damage, damage_dicom
from tests.damage import CODES, DIM, SHAPE, header

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT_S = 180  # the command takes about 15 s on an idle core
MEMORY = 12 << 30
BOTH = (1, 1)
GOOD = ("good_nifti", "good_dicom")
D, H, W = SHAPE


def last(n):
    return lambda size: size - n


def share(part):
    return lambda size: int(part * size)


def between(first, last):
    """Bytes; negative ones count from the end."""
    return lambda size: (first % size, (last - 1) % size + 1)


NIFTI = {
    "cut_to_nothing": partial(damage.cut, share(0), "ct"),
    "cut_in_the_magic": partial(damage.cut, lambda _: 1, "ct"),
    "cut_in_the_gzip_header": partial(damage.cut, lambda _: 9, "ct"),
    **{f"cut_at_{n}_percent": partial(damage.cut, share(n / 100), "ct") for n in (3, 30, 60, 99)},
    **{f"cut_by_{n}_bytes": partial(damage.cut, last(n), "ct") for n in (1, 4, 9)},
    **{f"flip_gzip_header_{n}": partial(damage.flip, between(0, 10), "ct") for n in range(4)},
    **{f"flip_body_{n}": partial(damage.flip, between(10, -8), "ct") for n in range(8)},
    **{f"flip_trailer_{n}": partial(damage.flip, between(-8, 0), "ct") for n in range(4)},
    "garbage_at_the_end": partial(damage.append, b"garbage", False),
    "more_data_at_the_end": partial(damage.append, bytes(1000), True),
    "one_slice_less_in_the_header": partial(header, DIM, "h", (3, W, H, D - 1), BOTH),
    "one_slice_more_in_the_header": partial(header, DIM, "h", (3, W, H, D + 1), BOTH),
    "one_column_less_in_the_header": partial(header, DIM, "h", (3, W - 1, H, D), BOTH),
    "a_header_of_108_gb": partial(header, DIM, "h", (3, 30000, 30000, 60), BOTH),
    "a_header_of_4_dimensions": partial(header, DIM, "h", (4, W, H, D // 2, 2), BOTH),
    "no_dimensions": partial(header, DIM, "h", (0,), BOTH),
    "two_dimensions": partial(header, DIM, "h", (2,), BOTH),
    "minus_one_dimensions": partial(header, DIM, "h", (-1,), BOTH),
    "an_empty_axis": partial(header, DIM, "h", (3, 0, H, D), BOTH),
    "a_negative_axis": partial(header, DIM, "h", (3, -W, H, D), BOTH),
    "header_size_0": partial(header, 0, "i", (0,), BOTH),
    "header_size_540": partial(header, 0, "i", (540,), BOTH),
    "no_magic": partial(header, damage.MAGIC, "i", (0,), BOTH),
    **{f"data_type_{n}": partial(header, damage.TYPE, "h", (n,), BOTH) for n in (0, 1, 2, 16, 32, 128, 512, 9999)},
    "8_bits": partial(header, damage.BITS, "h", (8,), BOTH),
    **{f"voxels_at_{n}": partial(header, damage.OFFSET, "f", (n,), BOTH) for n in (0, -5, 400, 1e9, np.nan)},
    **{f"slope_{n}": partial(header, damage.SLOPE, "f", (n, 0), BOTH) for n in (0, 1e9, np.nan, np.inf)},
    **{f"intercept_{n}": partial(header, damage.SLOPE, "f", (1, n), BOTH) for n in (1e9, np.nan, -np.inf)},
    "no_affine": partial(header, CODES, "h", (0, 0), (0, 0)),
    "zero_affine": partial(header, damage.SROW, "f", (0,) * 12, BOTH),
    "nan_affine": partial(header, damage.SROW, "f", (np.nan,), BOTH),
    "mirrored_affine": partial(header, damage.SROW, "f", (6.0,), BOTH),
    "zero_spacing": partial(header, damage.PIXDIM, "f", (1, 0, 0, 0), (1, 0)),
    "nan_spacing": partial(header, damage.PIXDIM, "f", (1, np.nan, 5, 7), (1, 0)),
    "huge_spacing": partial(header, damage.PIXDIM, "f", (1, 6e9, 5e9, 7e9), (1, 0)),
    "nan_quaternion": partial(header, damage.QUATERN, "f", (np.nan,), (1, 0)),
    "nan_voxel": partial(damage.voxel, np.nan),
    "infinite_voxel": partial(damage.voxel, np.inf),
    "voxel_beyond_16_bit": partial(damage.voxel, 1e6),
    "constant": damage.constant,
    "8_bit_grey": damage.stored_as_8_bit,
    "complex_numbers": damage.complex_numbers,
    "two_volumes": damage.two_volumes,
    "swapped_slices": partial(damage.swap_slices, 2, -3),
    "blank_slice": partial(damage.blank_slice, 9),
    "not_compressed": damage.unpacked,
    "empty_file": partial(damage.replace, b"", "ct"),
    "text": partial(damage.replace, b"see the other disk\n", "ct"),
    "an_x_ray_for_a_ct": lambda patient, rng: patient.ct.write_bytes(patient.xray.read_bytes()),
    "a_directory_for_a_ct": partial(damage.directory, "ct"),
    "a_link_to_itself": partial(damage.link, "{name}", "ct"),
    "a_ring_of_links": partial(damage.link_ring, "ct"),
    "a_link_to_nothing": partial(damage.link, "nothing", "ct"),
    "a_link_to_a_device_without_end": partial(damage.link, "/dev/zero", "ct"),
    "a_pipe": partial(damage.fifo, "ct"),
    "ct_not_readable": partial(damage.forbid, "ct"),
}
DICOM = {
    "dicom_cut_slice": partial(damage_dicom.slice_file, 4, lambda content: content[: len(content) // 2]),
    "dicom_cut_in_the_header": partial(damage_dicom.slice_file, 4, lambda content: content[:200]),
    "dicom_empty_slice": partial(damage_dicom.slice_file, 4, lambda _: b""),
    "dicom_text_slice": partial(damage_dicom.slice_file, 4, lambda _: b"not DICOM"),
    **{f"dicom_flip_{n}": partial(damage.flip, between(128, 700), "ct") for n in range(6)},
    "dicom_missing_slice": partial(damage_dicom.lose_slice, 6),
    "dicom_duplicate": partial(damage_dicom.double_slice, "copy.dcm"),
    "dicom_duplicate_below": partial(damage_dicom.double_slice, "below/copy.dcm"),
    "dicom_swapped_names": damage_dicom.swap_names,
    "dicom_swapped_places": partial(damage_dicom.swap_tag, "ImagePositionPatient"),
    "dicom_swapped_voxels": partial(damage_dicom.swap_tag, "PixelData"),
    "dicom_two_series": damage_dicom.second_series,
    "dicom_65535_rows": partial(damage_dicom.tags, 4, {"Rows": 65535, "Columns": 65535}),
    "dicom_8192_rows": partial(damage_dicom.tags, 4, {"Rows": 8192, "Columns": 8192}),
    "dicom_fewer_columns": partial(damage_dicom.tags, 4, {"Columns": W - 2}),
    "dicom_first_slice_narrower": partial(damage_dicom.tags, 0, {"Columns": W - 2}),
    "dicom_first_slice_cut_in_the_header": partial(damage_dicom.slice_file, 0, lambda content: content[:200]),
    "dicom_99_frames": partial(damage_dicom.tags, 4, {"NumberOfFrames": 99}),
    "dicom_colours": partial(damage_dicom.tags, 4, {"SamplesPerPixel": 3}),
    "dicom_no_pixel_size": partial(damage_dicom.tags, 4, {"PixelSpacing": [0, 0]}),
    "dicom_no_direction": partial(damage_dicom.tags, 4, {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}),
    "dicom_no_place": partial(damage_dicom.tags, 4, {"ImagePositionPatient": None}),
    "dicom_no_voxels": partial(damage_dicom.tags, 4, {"PixelData": None}),
    "dicom_odd_slope": partial(damage_dicom.tags, 4, {"RescaleSlope": 1e5}),
    "dicom_unknown_compression": damage_dicom.unknown_compression,
    "dicom_loop_of_links": damage_dicom.loop_in_folder,
    "dicom_no_slices": damage_dicom.no_slices,
    "dicom_not_readable": lambda patient, rng: patient.slices[0].chmod(0),
}
XRAY = {
    **{f"xray_cut_at_{n}_percent": partial(damage.cut, share(n / 100), "xray") for n in (0, 1, 50, 99)},
    **{f"xray_flip_{n}": partial(damage.flip, between(0, 0), "xray") for n in range(8)},
    "xray_of_10_gigapixels": partial(damage.png_size, 100_000, 100_000),
    "xray_of_another_width": partial(damage.png_size, 79, 96),
    "xray_text": partial(damage.replace, b"film is lost\n", "xray"),
    "xray_blank": partial(damage.picture, np.zeros_like),
    "xray_tiny": partial(damage.picture, lambda film: film[:20, :20]),
    "xray_lateral": partial(damage.picture, lambda film: film[:, :40].repeat(6, axis=0).repeat(2, axis=1)),
    "xray_directory": partial(damage.directory, "xray"),
    "xray_link_to_itself": partial(damage.link, "{name}", "xray"),
    "xray_pipe": partial(damage.fifo, "xray"),
    "xray_not_readable": partial(damage.forbid, "xray"),
    "xray_cut_jpeg": partial(damage.jpeg, 0.5),
    "xray_nan_geometry": partial(damage.sidecar, '{"affine": [[NaN, 0, 0], [0, 1, 0]], "synthetic": false}'),
    "xray_odd_geometry": partial(damage.sidecar, "[]"),
    "xray_cut_dicom": partial(damage.film_dicom, 0.6, {}),
    "xray_dicom_of_4_gigapixels": partial(damage.film_dicom, 1, {"Rows": 65535, "Columns": 65535}),
    "xray_dicom_of_99_frames": partial(damage.film_dicom, 1, {"NumberOfFrames": 99}),
    "xray_dicom_lateral": partial(damage.film_dicom, 1, {"ViewPosition": "LL"}),
}
DAMAGES = NIFTI | DICOM | XRAY


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """All damaged patients and two good ones, prepared by one command: (patients by name, store)."""
    root = tmp_path_factory.mktemp("fuzz")
    patients = {}
    for seed, name in enumerate([*DAMAGES, *GOOD]):
        write = damage.write_dicom_patient if name in DICOM or name == "good_dicom" else damage.write_nifti_patient
        patients[name] = write(root, name, seed)
    for name, spoil in DAMAGES.items():
        spoil(patients[name], np.random.default_rng(patients[name].seed))
    of_noise = ["dataset.register_films=false", "dataset.pair_check=off"]  # the films, which fit no CT
    settings = ["dataset.prepare_workers=0", *of_noise]
    command = [sys.executable, "prepare_data.py", f"dataset.root={root}", *settings]
    done = subprocess.run(
        command,
        cwd=ROOT,
        timeout=TIME_LIMIT_S,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return patients, VolumeStore(root / "store")


@pytest.mark.parametrize("name", [*DAMAGES, *GOOD])
def test_a_damaged_case_is_reported_or_holds_what_it_held(prepared, name):
    if name.endswith("not_readable") and os.geteuid() == 0:
        pytest.skip("root may read everything")
    patients, store = prepared
    report = (store.folder / "report.txt").read_text()
    reported = any(line.split()[0] == name for line in report.splitlines() if line.strip())
    kept = [case for case in store.cases if case.patient_id == name]
    assert reported or kept
    if name in GOOD:
        assert not reported
    if kept and not reported:
        np.testing.assert_array_equal(store.read_hu(kept[0], (0, 0, 0), kept[0].shape), patients[name].hu())
        stored = open_array(xray_path(store.folder, name), kept[0].source_hash)[:] / 65535
        film, _ = to_square(Xray(patients[name].film().astype(np.float32) / 65535, "uint16", None, False))
        np.testing.assert_allclose(stored, film, atol=1e-4)

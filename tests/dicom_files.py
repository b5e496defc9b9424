"""DICOM files for tests: a small CT series with a planted name."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

NAME = "Planted^Name"
SHAPE = (12, 8, 6)  # slices, rows, columns
STEP, ROW_MM, COLUMN_MM = 3.0, 0.7, 0.9


def dataset(values, **tags):
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID, item.SOPInstanceUID, item.Modality = CTImageStorage, generate_uid(), "CT"
    item.PatientName, item.PatientID, item.SeriesNumber = NAME, NAME, 3
    item.Rows, item.Columns = values.shape[-2:]
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    item.PixelData = values.astype("<i2").tobytes()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def stored_values():
    return np.random.default_rng(0).integers(0, 3000, SHAPE).astype(np.int16)


def slice_tags(index, series, position=None):
    return {
        "SeriesInstanceUID": series,
        "ImagePositionPatient": [-10.0, -20.0, 50 + STEP * index] if position is None else position,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [ROW_MM, COLUMN_MM],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }


def write_series(folder, values, series="1.2.3", prefix="a", **changed):
    """Slices in files whose names do not follow their positions."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(values):
        item = dataset(plane, **(slice_tags(index, series) | changed))
        item.save_as(folder / f"{prefix}{(index * 7) % len(values):03d}.dcm", enforce_file_format=True)
    return folder

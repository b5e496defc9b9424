"""DICOM files for tests: a small CT series with a planted name."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

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


def write_stack(folder, hu, positions, series="1.2.3", prefix="s", **tags):
    """HU (n, rows, columns) in slices at LPS positions (n, 3); a tag may be a function of the slice's index."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (plane, position) in enumerate(zip(hu, positions, strict=True)):
        own = {name: value(index) if callable(value) else value for name, value in tags.items()}
        item = dataset(plane + 1024, **(slice_tags(0, series, [float(x) for x in position]) | own))
        item.save_as(folder / f"{prefix}{(index * 7919) % 100_003:06d}", enforce_file_format=True)
    return folder


def write_enhanced(path, values):
    """One file whose frames do not follow their positions."""
    order = np.random.default_rng(1).permutation(len(values))
    item = dataset(values[order], SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(values))
    item.SeriesInstanceUID = "1.2.3"
    tags = slice_tags(0, "1.2.3")

    def group(**content):
        inner = Dataset()
        for name, value in content.items():
            setattr(inner, name, value)
        return [inner]

    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=tags["ImageOrientationPatient"])
    shared.PixelMeasuresSequence = group(PixelSpacing=tags["PixelSpacing"])
    shared.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=-1024)
    for index in order:
        frame = Dataset()
        place = slice_tags(int(index), "")["ImagePositionPatient"]
        frame.PlanePositionSequence = group(ImagePositionPatient=place)
        frames.append(frame)
    item.SharedFunctionalGroupsSequence, item.PerFrameFunctionalGroupsSequence = [shared], frames
    path.parent.mkdir(exist_ok=True)
    item.save_as(path, enforce_file_format=True)

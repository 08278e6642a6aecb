"""
Synthetic files for trying it: `python -m examples.uploads.samples`.
"""

import os
from pathlib import Path

import fastavro
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SCHEMA = {
    "type": "record",
    "name": "StepsRecord",
    "fields": [{"name": "at", "type": "long"}, {"name": "steps", "type": "int"}],
}


def write_avro(path: Path, *, records: int) -> None:
    rows = [{"at": 1_772_352_000 + 60 * at, "steps": at * 7 % 113} for at in range(records)]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        fastavro.writer(file, SCHEMA, rows, codec="deflate")
    part.rename(path)


def write_dicom(path: Path, *, seed: str) -> None:
    """A CT image of 64 × 64 pixels, all of one value, of no person."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[seed])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[seed, "study"])
    dataset.PatientName = "Synthetic^Nobody"
    dataset.PatientID = "synthetic"
    dataset.Modality = "CT"
    dataset.Rows = dataset.Columns = 64
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes([128]) * 64 * 64
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    part = path.with_suffix(".part")
    dataset.save_as(part, enforce_file_format=True)
    part.rename(path)


if __name__ == "__main__":
    directory = Path(os.environ["UPLOADS_DIRECTORY"])
    directory.mkdir(parents=True, exist_ok=True)
    write_avro(directory / "steps.avro", records=1_000)
    write_dicom(directory / "slice.dcm", seed="1")

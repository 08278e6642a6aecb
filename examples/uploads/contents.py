"""
Metadata of Avro and DICOM files: how they are built, and never whose data they hold.
"""

from collections.abc import Callable
from typing import Any, BinaryIO

import fastavro
import pydicom
from pydicom.errors import InvalidDicomError

_DICOM_TAGS = ["SOPInstanceUID", "StudyInstanceUID", "Modality", "Rows", "Columns"]


class Unreadable(Exception):  # noqa: N818
    """The file is not of the kind that its name says."""


def avro(file: BinaryIO) -> dict[str, Any]:
    """The schema's name, the codec, and the number of records, which are not decoded."""
    try:
        blocks = fastavro.block_reader(file)
        schema, codec = blocks.writer_schema, blocks.codec
        records = sum(block.num_records for block in blocks)
    except (ValueError, EOFError, KeyError, IndexError) as error:
        raise Unreadable from error
    name = schema.get("name") if isinstance(schema, dict) else None
    return {"schema": name, "codec": codec, "records": records}


def dicom(file: BinaryIO) -> dict[str, Any]:
    """The ids, the modality and the size of the image; pixels and persons are not read."""
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_DICOM_TAGS)
    except (InvalidDicomError, ValueError, EOFError, KeyError) as error:
        raise Unreadable from error
    found = {tag: dataset.get(tag) for tag in _DICOM_TAGS}
    return {tag: value if isinstance(value, int) else str(value) for tag, value in found.items()}


READERS: dict[str, Callable[[BinaryIO], dict[str, Any]]] = {
    "application/avro": avro,
    "application/dicom": dicom,
}

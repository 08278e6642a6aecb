"""
The event: a file was stored.
"""

import hashlib
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from outbox import Event

MEDIA_TYPES: dict[str, Literal["application/avro", "application/dicom"]] = {
    ".avro": "application/avro",
    ".dcm": "application/dicom",
}


class StoredFile(BaseModel):
    """
    A reference to a file; its content stays in the directory.

    Args:
        key: The path of the file below the directory, with slashes.
        size_bytes: The size of the file in bytes.

    """

    event_type: ClassVar[str] = "upload.file.stored"
    model_config = ConfigDict(frozen=True)

    key: str = Field(min_length=1, max_length=1_024)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    media_type: Literal["application/avro", "application/dicom"]

    def to_event(self) -> Event:
        """A file is one fact by its key and its content; the key of the event shows neither."""
        identity = hashlib.sha256(f"{self.sha256}:{self.key}".encode()).hexdigest()
        return Event.of(self, idempotency_key=identity)

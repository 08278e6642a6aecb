"""
The files of a directory.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from examples.uploads.stored_file import MEDIA_TYPES, StoredFile


class KeyOutsideDirectory(Exception):  # noqa: N818
    """A key leads out of the directory, as `../secret` does."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file, as the directory lists it; *modified_ns* in nanoseconds since 1970."""

    key: str
    size_bytes: int
    modified_ns: int


class Directory:
    """The directory at *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve(strict=True)

    def files(self) -> Iterator[Found]:
        """All Avro and DICOM files, below it too."""
        for path in sorted(self.root.rglob("*")):
            if path.suffix in MEDIA_TYPES and path.is_file():
                facts = path.stat()
                yield Found(
                    path.relative_to(self.root).as_posix(), facts.st_size, facts.st_mtime_ns
                )

    def read(self, found: Found) -> StoredFile:
        """The file *found* with the digest of its content, which is read in pieces."""
        with self.open(found.key) as file:
            digest, size = sha256(file), os.fstat(file.fileno()).st_size
        return StoredFile(
            key=found.key,
            sha256=digest,
            size_bytes=size,
            media_type=MEDIA_TYPES[Path(found.key).suffix],
        )

    def open(self, key: str) -> BufferedReader:
        """Open the file of *key*. Raises KeyOutsideDirectory, and OSError if it is missing."""
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root):
            raise KeyOutsideDirectory
        return path.open("rb")


def sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def configured() -> Directory:
    """The directory that UPLOADS_DIRECTORY names."""
    return Directory(Path(os.environ["UPLOADS_DIRECTORY"]))

"""
Writes keys into a file: only its owner may read a new one, and no reader sees half of a document.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from outbox.encryption import key_ring
from outbox.encryption.key_ring import KeyRing
from outbox.errors import ConfigurationError

_PRIVATE = 0o600


def create(path: Path, ring: KeyRing, *, source: str) -> None:
    """
    Write *ring* into a new file; *source* begins each error.

    Raises ConfigurationError if there is a file, or none can be made.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE)
    except FileExistsError:
        raise ConfigurationError(f"{source}: the file exists, and may hold keys in use") from None
    except FileNotFoundError:
        raise ConfigurationError(
            f"{source}: its directory does not exist: make it first"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{source}: cannot be made ({error.strerror})") from None
    try:
        _write(descriptor, ring.to_document())
        _sync_directory(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigurationError(f"{source}: cannot be written ({error.strerror})") from None


def change(path: Path, changed: Callable[[KeyRing], KeyRing], *, source: str) -> None:
    """
    Replace the document at *path* by that of `changed(ring)`, with the same mode and owner.

    Two commands take turns. Other members of the document stay. A link is followed, as processes
    do. Raises ConfigurationError, and leaves the file as it is.
    """
    try:
        real = path.resolve(strict=True)
        with _locked(real) as descriptor:
            text = real.read_bytes()
            ring = changed(key_ring.parse(text, source=source))
            _replace(real, _merged(json.loads(text), ring), like=os.fstat(descriptor))
    except OSError as error:
        raise ConfigurationError(
            f"{source}: the file cannot be replaced ({error.strerror})"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Lock the file at *path*; another command may have replaced it before the lock was free."""
    while True:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    return os.path.samestat(path.stat(), os.fstat(descriptor))


def _merged(old: Mapping[str, Any], ring: KeyRing) -> dict[str, Any]:
    """The document of *ring*, with what else the *old* one has, such as notes of a key."""
    entries = {entry["id"]: entry for entry in old["keys"]}
    new = ring.to_document()
    return {**old, "keys": [entries.get(entry["id"], entry) for entry in new["keys"]]}


def _replace(path: Path, document: Mapping[str, Any], *, like: os.stat_result) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE)
    try:
        if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, like.st_mode & 0o7777)
        _write(descriptor, document)
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
    _sync_directory(path.parent)


def _write(descriptor: int, document: Mapping[str, Any]) -> None:
    """Write *document* to the disk, and close the file."""
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

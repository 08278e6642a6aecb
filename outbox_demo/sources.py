"""
The events of a run without an input file: generated, or one for each file in a directory.

Errors name the line or file and the field, never the value.
"""

import hashlib
import os
import random
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from outbox import Event, HealthDataMessage, InvalidEvent
from outbox.errors import ConfigurationError

RECORD_TYPES = (
    "BloodGlucoseRecord",
    "BloodPressureRecord",
    "HeartRateRecord",
    "SleepSessionRecord",
    "StepsRecord",
)
_RECORD_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_CHUNK = 1_048_576


class BadSource(ConfigurationError):  # noqa: N818 - it names a thing, like its siblings
    """The events of a run cannot be read; the message says where."""


def generated(count: int, *, seed: int) -> Iterator[Event]:
    """*count* uploads of invented users; one *seed* gives the same uploads, but ids and times."""
    generator = random.Random(seed)
    now = datetime.now(UTC)
    for number in range(count):
        content = generator.randbytes(16)
        yield HealthDataMessage(
            bucket="health-uploads",
            key=f"{now:%Y/%m/%d}/{number:06}.json",
            user_id=f"user-{generator.randrange(1_000):04}",
            upload_timestamp_utc=now + timedelta(microseconds=number),
            record_type=generator.choice(RECORD_TYPES),
            content_hash=hashlib.sha256(content).hexdigest(),
            processing_priority=generator.choice(("low", "normal", "normal", "high")),
            file_size_bytes=generator.randrange(200, 200_000),
            record_count=generator.randrange(1, 500),
        ).to_event()


def files(directory: Path) -> Iterator[Event]:
    """
    One upload for each regular file below *directory*, with its real size and SHA-256.

    Raises BadSource if a file cannot be read, or cannot be an event.
    """
    root = directory.resolve()
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        key = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
        try:
            digest, size = _digest(path)
            yield HealthDataMessage(
                bucket=root.name or "root",
                key=key,
                user_id="demo",
                upload_timestamp_utc=datetime.now(UTC),
                record_type=_record_type(path.relative_to(root)),
                content_hash=digest,
                file_size_bytes=size,
            ).to_event()
        except OSError as error:
            raise BadSource(f"--files: {key}: cannot be read ({error.strerror})") from None
        except InvalidEvent as error:
            raise BadSource(f"--files: {key}: {error}") from None


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _record_type(path: Path) -> str:
    """The folder of *path*, else its suffix: BloodGlucoseRecord/4711.json, or 4711.json."""
    names: Iterable[str] = (path.parent.name, path.suffix.removeprefix("."))
    return next((name for name in names if _RECORD_TYPE.fullmatch(name)), "File")

"""
Where the events of a run come from: chance, a file of JSON lines, or a directory of files.

Everything is read and checked before anything is committed. Errors name line or file and field,
never the value.
"""

import hashlib
import json
import os
import random
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from uuid_utils.compat import uuid7

from outbox import HEALTH_DATA_UPLOADED, Event, HealthDataMessage, InvalidEvent, Priority
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
    """The events to be told cannot be read; the message says where."""


def generated(count: int, *, seed: int) -> Iterator[Event]:
    """*count* uploads of invented people, the same for the same *seed* but for ids and times."""
    chance = random.Random(seed)
    now = datetime.now(UTC)
    for number in range(count):
        content = chance.randbytes(16)
        yield HealthDataMessage(
            bucket="health-uploads",
            key=f"{now:%Y/%m/%d}/{number:06}.json",
            user_id=f"user-{chance.randrange(1_000):04}",
            upload_timestamp_utc=now + timedelta(microseconds=number),
            record_type=chance.choice(RECORD_TYPES),
            content_hash=hashlib.sha256(content).hexdigest(),
            processing_priority=chance.choice(("low", "normal", "normal", "high")),
            file_size_bytes=chance.randrange(200, 200_000),
            record_count=chance.randrange(1, 500),
        ).to_event()


def ndjson(path: Path) -> Iterator[Event]:
    """
    The events in the file at *path*, one JSON object a line; empty lines are passed over.

    Raises BadSource.
    """
    seen: dict[UUID, int] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    event = _at(f"line {number}", line)
                    if seen.setdefault(event.id, number) != number:
                        raise BadSource(f"line {number}: id: stands in line {seen[event.id]} too")
                    yield event
    except OSError as error:
        raise BadSource(f"--events: cannot be read ({error.strerror})") from None


def files(directory: Path) -> Iterator[Event]:
    """
    An upload for each regular file below *directory*, with its true size and SHA-256.

    Raises BadSource.
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


def line_of(event: Event) -> str:
    """*event* as `ndjson` reads it."""
    if isinstance(event.payload, HealthDataMessage):
        return event.payload.model_dump_json()
    values = {name: getattr(event, name) for name in _Plain.model_fields}
    return _Plain(**values).model_dump_json()


class _Plain(BaseModel):
    """A line that is not an upload."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: str
    payload: Any
    id: UUID = Field(default_factory=uuid7)
    ordering_key: str | None = None
    idempotency_key: str = ""
    correlation_id: str | None = None
    priority: Priority = Priority.NORMAL
    occurred_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


def _at(place: str, line: bytes) -> Event:
    try:
        return _event(json.loads(line))
    except InvalidEvent as error:
        field = error.field if error.field.isprintable() else "a field with an odd name"
        raise BadSource(f"{place}: {field}: {error.problem}") from None
    except (ValueError, RecursionError):
        # The errors of json hold the line.
        raise BadSource(f"{place}: event: is not JSON") from None


def _event(value: Any) -> Event:
    if not isinstance(value, dict):
        raise InvalidEvent("event", "must be a JSON object")
    if "type" not in value:
        return HealthDataMessage(**value).to_event()
    try:
        plain = _Plain.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise InvalidEvent(".".join(map(str, first["loc"])), first["msg"]) from None
    if plain.type == HEALTH_DATA_UPLOADED:
        raise InvalidEvent("type", "is that of an upload: give its fields without a type")
    return Event(**dict(plain))


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _record_type(path: Path) -> str:
    """From the folder, else from the suffix: BloodGlucoseRecord/4711.json, or 4711.json."""
    names: Iterable[str] = (path.parent.name, path.suffix.removeprefix("."))
    return next((name for name in names if _RECORD_TYPE.fullmatch(name)), "File")

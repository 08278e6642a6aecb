"""
Events as lines of JSON, one object each: the input of the user, and the file of a run.

Errors name the line and the field, never the value.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from uuid_utils.compat import uuid7

from outbox import HEALTH_DATA_UPLOADED, Event, HealthDataMessage, InvalidEvent, Priority
from outbox_demo.sources import BadSource


def read(path: Path) -> Iterator[Event]:
    """
    The events in the file at *path*, one JSON object a line; empty lines are skipped.

    Raises BadSource if the file cannot be read, or a line is no event.
    """
    seen: dict[UUID, int] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    event = _at(f"line {number}", line)
                    if seen.setdefault(event.id, number) != number:
                        raise BadSource(
                            f"line {number}: id: repeats that of line {seen[event.id]}"
                        )
                    yield event
    except OSError as error:
        raise BadSource(f"--events: cannot be read ({error.strerror})") from None


def line_of(event: Event) -> str:
    """*event* as a line that `read` can read."""
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
        field = error.field if error.field.isprintable() else "a field with an unprintable name"
        raise BadSource(f"{place}: {field}: {error.problem}") from None
    except (ValueError, RecursionError):
        # The text of JSON errors contains the line.
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
        # The text after the comma may contain the value.
        problem = first["msg"].partition(",")[0]
        raise InvalidEvent(".".join(map(str, first["loc"])), problem) from None
    if plain.type == HEALTH_DATA_UPLOADED:
        raise InvalidEvent(
            "type", "is the type of an upload: give the fields of an upload without a type"
        )
    return Event(**dict(plain))

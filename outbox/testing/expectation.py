"""
Which events an assertion accepts, and what it says if it fails: pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict
from uuid import UUID

from pydantic import BaseModel, ValidationError

from outbox.producer_encryption import digest_of
from outbox.testing.recorded_event import RecordedEvent
from outbox.validation import HeaderValue

ANY: Any = object()
"""The payload that every event has."""


class Fields(TypedDict, total=False):
    """Fields of an event beside type and payload; of headers, those that are named."""

    routing_key: str
    exchange: str | None
    ordering_key: str | None
    idempotency_key: str
    headers: Mapping[str, HeaderValue]
    correlation_id: str | None
    content_type: str
    not_before: datetime | None
    priority: str
    id: UUID
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Expectation:
    """
    An event of this *type*, whose *payload* and *fields* are as given.

    A mapping is met by one that has its keys, with values that meet its values. A model is met by
    a payload that is read as an equal model.
    """

    type: str
    payload: Any = ANY
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(self.fields.keys() - Fields.__annotations__.keys()):
            raise TypeError(f"{unknown[0]}: is no field of an event")

    def is_met_by(self, event: RecordedEvent) -> bool:
        """Whether *event* is as expected."""
        return event.type == self.type and not any(self.differences(event))

    def differences(self, event: RecordedEvent) -> Iterator[str]:
        """What is not as expected about *event*, whose type is."""
        if self.payload is not ANY:
            yield from _of_payload(self.payload, event)
        for name, value in self.fields.items():
            found = getattr(event, name)
            if isinstance(value, str) and _is_digest(name, value, found):
                continue
            yield from _between(name, value, found)

    def failure(
        self, events: Sequence[RecordedEvent], *, count: int | None, act: str
    ) -> str | None:
        """
        What is wrong with *events*, or None.

        Without *count* at least one has to be as expected. *act* is what was done to them.
        """
        met = sum(map(self.is_met_by, events))
        if met == count or (count is None and met):
            return None
        wanted = {None: "no", 0: "unexpected"}.get(count, f"{met} instead of {count}")
        noun = "events" if count else "event"
        lines = [f"{wanted} {act} {noun} {self}; {len(events) or 'none'} of any kind:"]
        for event in events:
            lines.append(f"  {event}")
            if event.type == self.type:
                lines += [f"      {each}" for each in self.differences(event)]
        return "\n".join(lines) if events else lines[0].rstrip(":")

    def __str__(self) -> str:
        facts = dict(self.fields) if self.payload is ANY else {"payload": self.payload}
        facts |= self.fields
        return self.type + "".join(f" {name}={value!r}" for name, value in facts.items())


def _of_payload(wanted: Any, event: RecordedEvent) -> Iterator[str]:
    if not isinstance(wanted, BaseModel):
        yield from _between("payload", wanted, event.payload)
        return
    try:
        found: BaseModel = event.payload_as(type(wanted))
    except ValidationError as error:
        yield f"payload: is no {type(wanted).__name__}: {error.errors()[0]['msg']}"
        return
    for name in type(wanted).model_fields:
        yield from _between(f"payload.{name}", getattr(wanted, name), getattr(found, name))


def _is_digest(name: str, value: str, found: object) -> bool:
    """Whether *found* stands for *value* in the field *name* of an encrypted event."""
    if name not in {"ordering_key", "idempotency_key"}:
        return False
    domain: Literal["ordering_key", "idempotency_key"]
    domain = "ordering_key" if name == "ordering_key" else "idempotency_key"
    return found == digest_of(domain, value)


def _between(name: str, wanted: Any, found: Any) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            if key in found:
                yield from _between(f"{name}.{key}", value, found[key])
            else:
                yield f"{name}.{key}: is missing"
    elif wanted != found:
        yield f"{name}: {found!r} instead of {wanted!r}"

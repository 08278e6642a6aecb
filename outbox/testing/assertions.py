"""
Assertions on the events that a session has recorded.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar, Unpack, overload

from pydantic import BaseModel

from outbox.testing.expectation import ANY, Expectation, Fields
from outbox.testing.recorded import AsyncRecorder, Recorder, read
from outbox.testing.recorded_event import RecordedEvent, type_of, type_of_example
from outbox.testing.unawaited import to_await

Checked = TypeVar("Checked")

Kind: TypeAlias = "str | type[object] | BaseModel"
"""An event type, a class with `event_type`, or an instance of such a model."""


@overload
def assert_recorded(
    session: Recorder,
    kind: Kind,
    /,
    *,
    payload: Any = ...,
    count: int | None = None,
    **fields: Unpack[Fields],
) -> list[RecordedEvent]: ...


@overload
def assert_recorded(
    session: AsyncRecorder,
    kind: Kind,
    /,
    *,
    payload: Any = ...,
    count: int | None = None,
    **fields: Unpack[Fields],
) -> Coroutine[Any, Any, list[RecordedEvent]]: ...


def assert_recorded(
    session: "Recorder | AsyncRecorder",
    kind: Kind,
    /,
    *,
    payload: Any = ANY,
    count: int | None = None,
    **fields: Unpack[Fields],
) -> list[RecordedEvent] | Coroutine[Any, Any, list[RecordedEvent]]:
    """
    Assert that *session* has recorded an event of *kind*, see `recorded`; returns such events.

    *kind* is an event type, a class with `event_type`, or an instance of a model with it, which is
    then the payload too. With *count* there have to be exactly so many. Of a mapping only the keys
    that it names have to agree, in *payload* at any depth and in `headers`.

    Raises AssertionError, whose text lists all recorded events, and TypeError for an unknown
    field.
    """
    expected = expectation(kind, payload, fields)

    def check(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
        return accepted(events, expected, count, act="recorded")

    return _checked("assert_recorded", session, check)


@overload
def assert_not_recorded(
    session: Recorder, kind: Kind, /, *, payload: Any = ..., **fields: Unpack[Fields]
) -> None: ...


@overload
def assert_not_recorded(
    session: AsyncRecorder, kind: Kind, /, *, payload: Any = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, None]: ...


def assert_not_recorded(
    session: "Recorder | AsyncRecorder",
    kind: Kind,
    /,
    *,
    payload: Any = ANY,
    **fields: Unpack[Fields],
) -> Coroutine[Any, Any, None] | None:
    """
    Assert that *session* has recorded no such event; the arguments are those of `assert_recorded`.
    """
    expected = expectation(kind, payload, fields)

    def check(events: Sequence[RecordedEvent]) -> None:
        accepted(events, expected, 0, act="recorded")

    return _checked("assert_not_recorded", session, check)


def expectation(kind: Kind, payload: Any, fields: Fields) -> Expectation:
    """The expectation that the arguments of an assertion describe."""
    if isinstance(kind, (str, type)):
        return Expectation(type_of(kind), payload, {**fields})
    return Expectation(type_of_example(kind), kind if payload is ANY else payload, {**fields})


def accepted(
    events: Sequence[RecordedEvent], expected: Expectation, count: int | None, *, act: str
) -> list[RecordedEvent]:
    """Those of *events* that are as *expected*. Raises AssertionError unless they are *count*."""
    __tracebackhide__ = True
    if (failure := expected.failure(events, count=count, act=act)) is not None:
        raise AssertionError(failure)
    return [event for event in events if expected.is_met_by(event)]


def _checked(
    name: str,
    session: "Recorder | AsyncRecorder",
    check: Callable[[Sequence[RecordedEvent]], Checked],
) -> Checked | Coroutine[Any, Any, Checked]:
    __tracebackhide__ = True
    events = read(session, None)
    if isinstance(events, list):
        return check(events)
    return to_await(name, partial(_checked_later, events, check))


async def _checked_later(
    events: Callable[[], Coroutine[Any, Any, list[RecordedEvent]]],
    check: Callable[[Sequence[RecordedEvent]], Checked],
) -> Checked:
    __tracebackhide__ = True
    return check(await events())

"""
Assertions on the events that a session has recorded.
"""

from collections.abc import Callable, Coroutine, Sequence
from itertools import count as count_from
from typing import Any, TypeAlias, TypeVar, Unpack, cast, overload

from pydantic import BaseModel

from outbox.testing.expectation import ANY, Expectation, Fields
from outbox.testing.recorded import AsyncRecorder, Recorder, recorded
from outbox.testing.recorded_event import RecordedEvent, type_of, type_of_example

Checked = TypeVar("Checked")

Kind: TypeAlias = "str | type[object] | BaseModel"
"""An event type, a class with `event_type`, or an instance of such a model."""


UNAWAITED: dict[int, str] = {}
"""The names of assertions that were called and not awaited: they have asserted nothing yet."""

_NUMBERS = count_from(1)


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
    events = recorded(session)
    if isinstance(events, list):
        return check(events)
    events.close()  # another one is made when this is awaited, so that one warning says if not
    number = next(_NUMBERS)
    waiting: Any = _awaited(number, cast("AsyncRecorder", session), check)
    waiting.__qualname__ = name  # Python's warning about it shows this
    UNAWAITED[number] = name
    return cast("Coroutine[Any, Any, Checked]", waiting)


async def _awaited(
    number: int,
    session: AsyncRecorder,
    check: Callable[[Sequence[RecordedEvent]], Checked],
) -> Checked:
    __tracebackhide__ = True
    del UNAWAITED[number]
    return check(await recorded(session))

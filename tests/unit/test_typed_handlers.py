"""
Handlers whose event type, model and annotation are one statement, or agree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NewType

import pytest
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from typing_extensions import TypeAliasType

from consumer import Consumer, Message
from consumer.checks import check_handlers
from consumer.execution.decode import read_message
from consumer.payload_type import BYTES, UNCHECKED, PayloadType
from outbox import Event, HealthDataMessage
from outbox.errors import ConfigurationError, InvalidEvent, UnreadableMessage
from outbox.wire.codec import from_wire
from tests.support.builders import on_the_wire

if TYPE_CHECKING:
    from decimal import Decimal


class Reading(BaseModel):
    event_type: ClassVar[str] = "reading.taken"
    value: int


class Corrected(Reading):
    event_type: ClassVar[str] = "reading.corrected"


class Move(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ward: str


@dataclass
class Vital:
    value: int


@pytest.fixture
def etl() -> Consumer:
    return Consumer("etl", bindings=["#"])


async def of_reading(message: Message[Reading], session: AsyncSession) -> None: ...


async def of_move(message: Message[Move], session: AsyncSession) -> None: ...


async def of_anything(message: Message[Any], session: AsyncSession) -> None: ...


async def unannotated(message, session) -> None: ...


async def of_decimal(message: Message[Decimal], session: AsyncSession) -> None: ...


async def of_undefined(message: Message[Nowhere], session: AsyncSession) -> None: ...  # noqa: F821


async def of_list(messages: Sequence[Message[Reading]], session: AsyncSession) -> None: ...


async def leased(message: Message[Reading]) -> None: ...


@pytest.mark.parametrize("function", [of_reading, of_anything, unannotated, of_undefined])
def test_a_model_decides_the_type_of_events_and_the_payload(etl, function):
    etl.on(Reading)(function)

    handler = etl.handlers["reading.taken"]
    assert (handler.event_type, handler.payload_type) == ("reading.taken", PayloadType(Reading))


def test_the_annotation_alone_decides_both(etl):
    etl.on()(of_reading)
    etl.on_batch("listed.together", size=2)(of_move_list)
    etl.on_leased(Corrected)(of_any_leased)

    assert {name: each.payload_type.model for name, each in etl.handlers.items()} == {
        "reading.taken": Reading,
        "listed.together": Move,
        "reading.corrected": Corrected,
    }


@asynccontextmanager
async def of_another_module() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("decorate", [of_another_module(), partial], ids=["wrapped", "partial"])
def test_annotations_are_read_in_the_module_where_the_function_is_written(etl, decorate):
    etl.on()(decorate(of_reading))

    assert etl.handlers["reading.taken"].payload_type.model is Reading


def test_an_annotation_in_quotes_is_read(etl):
    async def quoted(message: "Message[Reading]", session: AsyncSession) -> None: ...  # noqa: UP037

    etl.on()(quoted)

    assert etl.handlers["reading.taken"].payload_type.model is Reading


def test_a_handler_of_one_message_is_not_registered_for_lists(etl):
    with pytest.raises(ConfigurationError, match="must be annotated with Sequence"):
        etl.on_batch(Reading, size=2)(of_reading)


class Later(BaseModel):
    named: Named


class Never(BaseModel):
    named: Undefined  # noqa: F821


class Named(BaseModel):
    name: str


@pytest.mark.parametrize("annotation", [Later, list["Named"], Later | Move])
def test_a_type_that_is_defined_by_the_start_of_a_consumer_is_found(etl, annotation):
    register(etl, annotation)

    check_handlers(etl)

    assert etl.handlers["a.b"].payload_type.model.__pydantic_complete__


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (Never, "Never needs the type Undefined, which is not defined"),
        (list[Never], "needs the type Undefined"),
        (list["Nowhere"], "needs the type Nowhere"),  # noqa: F821
        (BaseModel, "BaseModel is no model itself"),
    ],
)
def test_a_consumer_whose_payloads_cannot_be_read_does_not_start(etl, annotation, problem):
    register(etl, annotation)

    with pytest.raises(ConfigurationError, match=f"^consumer etl: a.b: .*{problem}"):
        check_handlers(etl)


def register(etl: Consumer, annotation: Any) -> None:
    async def handle(message, session): ...

    handle.__annotations__["message"] = Message[annotation]
    etl.on("a.b")(handle)


async def of_move_list(messages: list[Message[Move]], session: AsyncSession) -> None: ...


async def of_any_leased(message: Message[object]) -> None: ...


@pytest.mark.parametrize(
    ("event", "model", "function", "problem"),
    [
        (Reading, None, of_move, "Message[Move], and registered for the model Reading"),
        ("a.b", Reading, of_move, "Message[Move], and registered for the model Reading"),
        ("a.b", None, of_reading, "is registered for a.b, and its model Reading is of reading"),
        ("a.b", HealthDataMessage, of_anything, "model HealthDataMessage is of health.data.up"),
        (Reading, Move, of_reading, "model: is not Reading, which it is registered for"),
        (None, None, of_anything, "its type of events is not known"),
        (None, None, of_move, "event_type: must be a ClassVar[str] of the class Move"),
        ("a.b", None, of_undefined, "needs Nowhere, which is not defined there"),
        ("a.b", None, of_decimal, "needs Decimal, which is not defined there"),
    ],
)
def test_a_wrong_pair_is_refused_when_it_is_registered(etl, event, model, function, problem):
    with pytest.raises(ConfigurationError, match="^consumer etl: .*" + function.__name__) as error:
        etl.on(event, model=model)(function)

    assert problem in str(error.value)
    assert etl.handlers == {}


@pytest.mark.parametrize("event", [int, Vital, Move, 5, "no spaces", of_reading])
def test_an_event_that_names_no_type_is_refused_at_once(etl, event):
    with pytest.raises(ConfigurationError, match=r"^consumer etl: "):
        etl.on(event)


def test_an_instance_in_place_of_a_model_is_refused_without_its_values(etl):
    with pytest.raises(
        ConfigurationError, match=r"^consumer etl: Reading: must be a type"
    ) as error:
        etl.on(Reading(value=4711))

    assert "4711" not in str(error.value)


def test_a_derived_model_fits_where_its_base_is_annotated(etl):
    etl.on(Corrected)(of_reading)

    assert etl.handlers["reading.corrected"].payload_type.model is Corrected


@pytest.mark.parametrize("annotation", ["Move", "Session", "dict[str, int]", "Sequence[Message]"])
def test_a_first_parameter_that_is_no_message_is_refused(etl, annotation):
    async def handle(message, session): ...

    handle.__annotations__["message"] = annotation

    with pytest.raises(ConfigurationError, match=r"message must be annotated with Message\[…\]$"):
        etl.on("a.b")(handle)


Taken = NewType("Taken", Reading)
Alias = TypeAliasType("Alias", Reading)


@pytest.mark.parametrize("annotation", [Taken, Alias, Annotated[Reading, "checked"]], ids=str)
def test_another_name_of_a_model_is_the_model(etl, annotation):
    async def handle(message, session): ...

    handle.__annotations__["message"] = Message[annotation]
    etl.on(Reading)(handle)

    assert etl.handlers["reading.taken"].payload_type.model is Reading


@pytest.mark.parametrize("annotation", [Taken, Alias])
def test_another_name_of_a_model_names_its_type_of_events(etl, annotation):
    async def handle(message, session): ...

    handle.__annotations__["message"] = Message[annotation]
    etl.on()(handle)

    assert etl.handlers["reading.taken"].payload_type.model is Reading


def test_a_session_of_another_kind_is_refused(etl):
    async def handle(message: Message[Any], session: Session) -> None: ...

    with pytest.raises(ConfigurationError, match="session must be annotated with AsyncSession"):
        etl.on("a.b")(handle)


def test_a_type_that_pydantic_cannot_validate_is_refused(etl):
    async def handle(message: Message[Session], session: AsyncSession) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Message\[Session\], which pydantic cannot"):
        etl.on("a.b")(handle)


def test_one_type_of_events_has_one_handler_however_it_is_named(etl):
    etl.on(Reading)(of_reading)

    for again in (lambda: etl.on("reading.taken"), lambda: etl.on()(of_reading)):
        with pytest.raises(ConfigurationError, match=r"reading\.taken has a handler already$"):
            again()


def payload(annotation: Any, event: Event) -> Any:
    async def handle(message, session): ...

    handle.__annotations__["message"] = Message[annotation]
    etl = Consumer("etl", bindings=["#"])
    etl.on(event.type)(handle)
    envelope = from_wire(on_the_wire(event, exchange="main"))
    read_as = etl.handlers[event.type].payload_type
    return read_message(envelope, read_as, attempt=1, redelivered=False).payload


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (Any, {"value": 1}, {"value": 1}),
        (object, [1], [1]),
        (bytes, {"value": 1}, b'{"value":1}'),
        (Vital, {"value": 1}, Vital(1)),
        (dict[str, int], {"value": 1}, {"value": 1}),
        (Move | Reading, {"value": 1}, Reading(value=1)),
        (list[Reading], [{"value": 1}], [Reading(value=1)]),
        (int | None, None, None),
    ],
    ids=str,
)
def test_a_handler_gets_the_type_that_it_is_annotated_with(annotation, given, expected):
    found = payload(annotation, Event("a.b", given))

    assert found == expected
    assert type(found) is type(expected)


def test_bytes_are_handed_over_as_they_are():
    assert payload(bytes, Event("a.b", b"MSH|^~\\&", content_type="x-application/hl7-v2+er7"))


@pytest.mark.parametrize("annotation", [dict[str, int], Vital, Move | Reading])
def test_a_payload_of_another_type_is_dead_lettered_without_its_value(annotation):
    with pytest.raises(UnreadableMessage) as error:
        payload(annotation, Event("a.b", {"value": "secret"}))

    assert error.value.code == "schema_unsupported"
    assert "secret" not in str(error.value)


def test_a_handler_without_a_model_reads_as_before(etl):
    etl.on("a.b")(of_anything)
    etl.on("a.bytes")(of_bytes)

    assert etl.handlers["a.b"].payload_type == UNCHECKED
    assert etl.handlers["a.bytes"].payload_type == BYTES


async def of_bytes(message: Message[bytes], session: AsyncSession) -> None: ...


def test_the_event_of_a_model_has_the_type_that_its_class_names():
    event = Event.of(Reading(value=1), ordering_key="k")

    assert (event.type, event.payload) == ("reading.taken", Reading(value=1))
    assert event.ordering_key == "k"


def test_an_event_of_another_type_than_its_model_names_is_refused():
    with pytest.raises(InvalidEvent, match="type: must be that of the class Reading of the pay"):
        Event("ward.moved", Reading(value=1))

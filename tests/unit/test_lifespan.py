"""
Resources of a consumer's lifespan, found by annotation when a handler is registered.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypedDict

import pytest
from pydantic import BaseModel

from consumer import Consumer, Message
from consumer.bound import bind
from consumer.lifespan import entered
from outbox.errors import ConfigurationError


class Client:
    def __init__(self, name: str = "client") -> None:
        self.name = name


class Secure(Client):
    pass


@dataclass
class Resources:
    http: Client
    limit: int


class Named(NamedTuple):
    first: Client
    second: Client


class Typed(TypedDict):
    http: Client


class Model(BaseModel):
    limit: int


def providing(value: Any, annotation: Any) -> Any:
    async def resources():
        yield value

    resources.__annotations__["return"] = annotation
    return asynccontextmanager(resources)


async def called_with(lifespan: Any, annotation: Any, name: str = "resource") -> Any:
    """Give what a handler gets for a parameter of this *name* and *annotation*."""
    got = []
    etl = Consumer("etl", bindings=["#"], lifespan=lifespan)

    async def handle(message, session, **resources):
        got.append(resources)

    code = f"async def handle(message, session, *, {name}: annotation): got.append({name})"
    names: dict[str, Any] = {"annotation": annotation, "got": got}
    exec(code, names)  # noqa: S102 - a parameter has the name that a test gives it
    etl.on("a")(names["handle"])
    async with entered(etl.lifespan) as value:
        await bind(etl, value).handlers["a"].call("message", "session")
    return got[0]


CLIENT = Client()


@pytest.mark.parametrize(
    ("lifespan", "annotation", "expected"),
    [
        (providing(CLIENT, AsyncIterator[Client]), Client, CLIENT),
        (providing(CLIENT, AsyncGenerator[Client, None]), Client, CLIENT),
        (providing(CLIENT, AbstractAsyncContextManager[Client]), Client, CLIENT),
        (providing(Resources(CLIENT, 5), AsyncIterator[Resources]), Client, CLIENT),
        (providing(Resources(CLIENT, 5), "AsyncIterator[Resources]"), int, 5),
        (providing({"http": CLIENT}, AsyncIterator[Typed]), Client, CLIENT),
        (providing(Model(limit=5), AsyncIterator[Model]), int, 5),
        (partial(providing(CLIENT, AsyncIterator[Client])), Client, CLIENT),
    ],
    ids=["iterator", "generator", "context", "dataclass", "text", "mapping", "model", "partial"],
)
async def test_a_handler_gets_the_resource_of_the_type_that_it_asks_for(
    lifespan, annotation, expected
):
    assert await called_with(lifespan, annotation) is expected


async def test_of_several_resources_of_one_type_the_name_decides():
    lifespan = providing(Named(Client("one"), Client("two")), AsyncIterator[Named])

    assert (await called_with(lifespan, Client, "second")).name == "two"
    with pytest.raises(ConfigurationError, match=r"resource: lifespan \S+ provides several"):
        await called_with(lifespan, Client)


async def test_a_derived_resource_fits_where_its_base_is_asked_for():
    secure = Secure()

    assert await called_with(providing(secure, AsyncIterator[Secure]), Client) is secure


@pytest.mark.parametrize("annotation", [str, Any, object, "Nowhere", list[int]])
async def test_a_resource_that_is_not_provided_is_refused_when_it_is_registered(annotation):
    with pytest.raises(ConfigurationError, match=r"^consumer etl: a: handler handle: resource"):
        await called_with(providing(CLIENT, AsyncIterator[Client]), annotation)


async def test_resources_need_a_lifespan():
    with pytest.raises(ConfigurationError, match="resource, is a resource, which needs Consumer"):
        await called_with(None, Client)


@asynccontextmanager
async def of_settings(limit: int) -> AsyncIterator[Client]:
    yield CLIENT


async def coroutine() -> AsyncIterator[Client]: ...


@pytest.mark.parametrize(
    "lifespan",
    [
        providing(CLIENT, None),
        providing(CLIENT, Client),
        providing(CLIENT, "Nowhere"),
        providing(CLIENT, AsyncIterator[Client]).__wrapped__,
        5,
        of_settings,
        coroutine,
    ],
    ids=["nothing", "no context", "undefined", "undecorated", "number", "argument", "coroutine"],
)
def test_a_lifespan_that_does_not_say_what_it_provides_is_refused(lifespan):
    with pytest.raises(ConfigurationError, match=r"^consumer etl: lifespan "):
        Consumer("etl", bindings=["#"], lifespan=lifespan)


async def test_a_parameter_with_a_default_is_left_alone():
    etl = Consumer("etl", bindings=["#"])
    got = []

    @etl.on("a")
    async def handle(message: Message[Any], session: object, limit: int = 3) -> None:
        got.append(limit)

    await bind(etl).handlers["a"].call("message", "session")
    assert got == [3]


async def test_a_lifespan_without_a_value_begins_and_ends():
    told = []

    @asynccontextmanager
    async def log() -> AsyncIterator[None]:
        told.append("begun")
        yield
        told.append("ended")

    etl = Consumer("etl", bindings=["#"], lifespan=log)
    async with entered(etl.lifespan) as value:
        assert (value, told) == (None, ["begun"])
    assert told == ["begun", "ended"]

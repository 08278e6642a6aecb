"""
Types of the decorators with which functions become handlers, for type checkers.

Each is generic in the payload: a handler of `Message[A]` that is registered for another model is
an error. Further parameters of a handler are resources, and any are allowed. A handler that is
registered for a model is called by position, since its type has no names for them. The value that
a handler returns is the reply to a request.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.message import Message
from outbox.event import SupportsEventType

Payload = TypeVar("Payload")
ModelPayload = TypeVar("ModelPayload")
TypedModel = TypeVar("TypedModel", bound=SupportsEventType)
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result", bound=Awaitable[object])
Resources = ParamSpec("Resources")

_Handler: TypeAlias = Callable[Concatenate[Message[Payload], AsyncSession, Resources], Result]
_OfBatch: TypeAlias = Callable[
    Concatenate[Sequence[Message[Payload]], AsyncSession, Resources], Result
]
_Leased: TypeAlias = Callable[Concatenate[Message[Payload], Resources], Result]

# A type variable for the whole function keeps the names of its parameters, but no bound of one can
# name the model that a decorator is for.
_Done: TypeAlias = Awaitable[object]
AnyHandler = TypeVar(
    "AnyHandler", bound=Callable[Concatenate[Message[Any], AsyncSession, ...], _Done]
)
AnyOfBatch = TypeVar(
    "AnyOfBatch", bound=Callable[Concatenate[Sequence[Message[Any]], AsyncSession, ...], _Done]
)
AnyLeased = TypeVar("AnyLeased", bound=Callable[Concatenate[Message[Any], ...], _Done])


class Registers(Protocol):
    """A decorator for handlers of any payload."""

    def __call__(self, function: AnyHandler, /) -> AnyHandler: ...


class RegistersModel(Protocol[ModelPayload]):
    """A decorator for handlers of one model."""

    def __call__(
        self, function: _Handler[ModelPayload, Resources, Result], /
    ) -> _Handler[ModelPayload, Resources, Result]: ...


class RegistersBatch(Protocol):
    """A decorator for handlers of lists, of any payload."""

    def __call__(self, function: AnyOfBatch, /) -> AnyOfBatch: ...


class RegistersBatchOfModel(Protocol[ModelPayload]):
    """A decorator for handlers of lists, of one model."""

    def __call__(
        self, function: _OfBatch[ModelPayload, Resources, Result], /
    ) -> _OfBatch[ModelPayload, Resources, Result]: ...


class RegistersLeased(Protocol):
    """A decorator for leased handlers of any payload."""

    def __call__(self, function: AnyLeased, /) -> AnyLeased: ...


class RegistersLeasedOfModel(Protocol[ModelPayload]):
    """A decorator for leased handlers of one model."""

    def __call__(
        self, function: _Leased[ModelPayload, Resources, Result], /
    ) -> _Leased[ModelPayload, Resources, Result]: ...

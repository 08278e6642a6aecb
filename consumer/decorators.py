"""
Types of the decorators with which functions become handlers, for type checkers.

Each is generic in the payload: a handler of `Message[A]` that is registered for another model is
an error. Further parameters of a handler are resources, and any are allowed.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.message import Message
from outbox.event import SupportsEventType

Payload = TypeVar("Payload")
ModelPayload = TypeVar("ModelPayload")
TypedModel = TypeVar("TypedModel", bound=SupportsEventType)
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result", bound=Awaitable[None])
Resources = ParamSpec("Resources")

_Handler: TypeAlias = Callable[Concatenate[Message[Payload], AsyncSession, Resources], Result]
_OfBatch: TypeAlias = Callable[
    Concatenate[Sequence[Message[Payload]], AsyncSession, Resources], Result
]
_Leased: TypeAlias = Callable[Concatenate[Message[Payload], Resources], Result]


class Registers(Protocol):
    """A decorator for handlers of any payload."""

    def __call__(
        self, function: _Handler[Payload, Resources, Result], /
    ) -> _Handler[Payload, Resources, Result]: ...


class RegistersModel(Protocol[ModelPayload]):
    """A decorator for handlers of one model."""

    def __call__(
        self, function: _Handler[ModelPayload, Resources, Result], /
    ) -> _Handler[ModelPayload, Resources, Result]: ...


class RegistersBatch(Protocol):
    """A decorator for handlers of lists, of any payload."""

    def __call__(
        self, function: _OfBatch[Payload, Resources, Result], /
    ) -> _OfBatch[Payload, Resources, Result]: ...


class RegistersBatchOfModel(Protocol[ModelPayload]):
    """A decorator for handlers of lists, of one model."""

    def __call__(
        self, function: _OfBatch[ModelPayload, Resources, Result], /
    ) -> _OfBatch[ModelPayload, Resources, Result]: ...


class RegistersLeased(Protocol):
    """A decorator for leased handlers of any payload."""

    def __call__(
        self, function: _Leased[Payload, Resources, Result], /
    ) -> _Leased[Payload, Resources, Result]: ...


class RegistersLeasedOfModel(Protocol[ModelPayload]):
    """A decorator for leased handlers of one model."""

    def __call__(
        self, function: _Leased[ModelPayload, Resources, Result], /
    ) -> _Leased[ModelPayload, Resources, Result]: ...

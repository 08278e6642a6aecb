"""
The declaration of a consumer: its name, the events it wants, the handlers for them. No I/O.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.message import Message
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.event import check_type

HandlerFunction: TypeAlias = Callable[[Message[Any], AsyncSession], Awaitable[None]]
Function = TypeVar("Function", bound=HandlerFunction)


@dataclass(frozen=True, slots=True)
class Handler:
    """What to do with the events of one type."""

    event_type: str
    function: HandlerFunction
    model: type[BaseModel] | None


class Consumer:
    """
    A named consumer of events, with a queue and a history of its own.

    Args:
        name: Part of the deduplication key: under another name everything is new.
        bindings: Topic patterns; `*` is one word, `#` any number.
        queue: Default is `MQ_PROCESSING_QUEUE`, a dot, and the name.

    Raises ConfigurationError if the name or the bindings cannot work.

    """

    def __init__(self, name: str, *, bindings: Sequence[str], queue: str | None = None) -> None:
        try:
            check_type(name)
        except InvalidEvent:
            raise ConfigurationError("consumer name: must be words joined by dots") from None
        if isinstance(bindings, str) or not bindings:
            raise ConfigurationError(f"consumer {name}: bindings must be a list of patterns")
        self.name = name
        self.bindings = tuple(bindings)
        self.queue = queue
        self.handlers: dict[str, Handler] = {}

    def on(
        self, event_type: str, /, *, model: type[BaseModel] | None = None
    ) -> Callable[[Function], Function]:
        """
        Register the decorated coroutine function for events of *event_type*.

        It is called with the message and a session. What it writes through the session, outgoing
        events included, commits together with the record that the message is done; it must not
        commit itself. An exception rolls everything back, and the message is tried again later.

        Raises ConfigurationError if the type is invalid or has a handler already.
        """
        try:
            check_type(event_type)
        except InvalidEvent as error:
            raise ConfigurationError(f"consumer {self.name}: {error}") from None
        if event_type in self.handlers:
            raise ConfigurationError(f"consumer {self.name}: {event_type} has a handler already")

        def register(function: Function) -> Function:
            self.handlers[event_type] = Handler(event_type, function, model)
            return function

        return register

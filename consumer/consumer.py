"""
The declaration of a consumer: its name, its bindings, and its handlers. No I/O.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, Unpack

from sqlalchemy.ext.asyncio import AsyncSession

from consumer.handler import Handler, Lease, OnLeaseExpired, Options
from consumer.message import Message
from consumer.signature import ALONE, BATCH, WITH_SESSION, check_function
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.validation import check_type

HandlerFunction: TypeAlias = Callable[[Message[Any], AsyncSession], Awaitable[None]]
BatchFunction: TypeAlias = Callable[[Sequence[Message[Any]], AsyncSession], Awaitable[None]]
LeasedFunction: TypeAlias = Callable[[Message[Any]], Awaitable[None]]
Function = TypeVar("Function", bound=HandlerFunction)
OfBatch = TypeVar("OfBatch", bound=BatchFunction)
Leased = TypeVar("Leased", bound=LeasedFunction)


RELAY = "relay"
"""The source of dead letters and the target that belong to the relay, and to no consumer."""

_QUEUE = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_MAX_PATTERN_BYTES = 255


class Consumer:
    """
    A named consumer of events, with its own queue and its own rows in the dedup store.

    Args:
        name: Part of the deduplication key: under another name every message is new.
        bindings: Topic patterns; `*` is one word, `#` any number.
        queue: Default is `MQ_PROCESSING_QUEUE`, a dot, and the name.
        ordered: Handle the messages of an ordering key one after another, in the order in which
            they were published; one process works at a time, others stand by.

    Raises ConfigurationError if the name is invalid or `relay`, *bindings* is empty or no list of
    patterns, or *queue* is no name of a queue.

    """

    def __init__(
        self,
        name: str,
        *,
        bindings: Sequence[str],
        queue: str | None = None,
        ordered: bool = False,
    ) -> None:
        try:
            check_type(name)
        except InvalidEvent:
            raise ConfigurationError("consumer name: must be words joined by dots") from None
        if name == RELAY:
            raise ConfigurationError(
                f"consumer name: must not be {RELAY}, the source of the relay in dead_letters"
            )
        if not _are_patterns(bindings):
            raise ConfigurationError(
                f"consumer {name}: bindings must be a list of patterns of 1 to 255 bytes"
            )
        if queue is not None and not _is_queue(queue):
            raise ConfigurationError(
                f"consumer {name}: queue must be 1 to 200 letters, digits and _.:-"
            )
        self.name = name
        self.bindings = tuple(bindings)
        self.queue = queue
        self.ordered = ordered
        self.handlers: dict[str, Handler] = {}

    def on(
        self, event_type: str, /, *, batch_size: int | None = None, **options: Unpack[Options]
    ) -> Callable[[Function], Function]:
        """
        Register the decorated coroutine function for events of *event_type*.

        The consumer calls it with the message and a session. Its writes through the session,
        outgoing events included, are committed together with the dedup record of the message; it
        must not commit itself. If it raises, the consumer rolls back and retries the message.

        Up to *batch_size* waiting messages share one transaction and one ack; if one fails, the
        consumer rolls back and handles each in its own transaction. With None the consumer decides
        how many: up to 64 if calls are short and rarely fail, one otherwise. With 1 none shares.
        For *options* see `consumer.handler.Options`.

        Raises ConfigurationError if the type is invalid or has a handler, an option is invalid, or
        the function is no coroutine function with these parameters.
        """
        return self._registering(event_type, options, batch_size=batch_size)

    def on_batch(
        self, event_type: str, /, *, size: int, **options: Unpack[Options]
    ) -> Callable[[OfBatch], OfBatch]:
        """
        Register the decorated coroutine function for lists of up to *size* such events.

        Like `on`, but the consumer calls it once with all messages of the transaction; duplicates
        are left out. If it fails, the consumer calls it for each message alone.
        """
        return self._registering(event_type, options, batch_size=size, takes_list=True)

    def on_leased(
        self,
        event_type: str,
        /,
        *,
        lease: timedelta = timedelta(seconds=30),
        on_expired: OnLeaseExpired = OnLeaseExpired.RETRY,
        **options: Unpack[Options],
    ) -> Callable[[Leased], Leased]:
        """
        Register the decorated coroutine function, whose effects are outside the database.

        The consumer calls it with the message alone; it passes `message.idempotency_key` to the
        other side. While it works, the consumer extends its *lease*, and a second delivery waits.
        If the process ends, *on_expired* decides about the message once the lease has expired.
        """
        try:
            held = Lease(lease, on_expired)
        except ConfigurationError as error:
            raise ConfigurationError(f"consumer {self.name}: {event_type}: {error}") from None
        return self._registering(event_type, options, lease=held)

    def _registering(
        self, event_type: str, options: Options, **facts: Any
    ) -> Callable[[Any], Any]:
        if event_type in self.handlers:
            raise ConfigurationError(f"consumer {self.name}: {event_type} has a handler already")
        try:
            check_type(event_type)
            _check_names(options)
            handler = Handler(event_type, **facts, **options)
        except (InvalidEvent, ConfigurationError) as error:
            raise ConfigurationError(f"consumer {self.name}: {event_type}: {error}") from None
        if self.ordered and (handler.lease or handler.circuit_breaker):
            raise ConfigurationError(
                f"consumer {self.name}: {event_type}: an ordered consumer takes no leased "
                "handlers and no circuit breakers"
            )

        parameters = BATCH if handler.takes_list else ALONE if handler.lease else WITH_SESSION

        def register(function: Any) -> Any:
            try:
                check_function(function, parameters=parameters)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"consumer {self.name}: {event_type}: handler {error}"
                ) from None
            self.handlers[event_type] = replace(handler, function=function)
            return function

        return register


def _check_names(options: Options) -> None:
    """Raise ConfigurationError for an option that is misspelt, or of another kind of handler."""
    for name in sorted(options.keys() - Options.__annotations__.keys()):
        raise ConfigurationError(f"{name}: is no option of this kind of handler")


def _are_patterns(values: object) -> bool:
    """Whether a broker takes *values* for topic patterns; callers without a type checker err."""
    if not isinstance(values, Collection) or isinstance(values, (str, bytes, Mapping)):
        return False
    return bool(values) and all(map(_is_pattern, values))


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and 1 <= len(value.encode()) <= _MAX_PATTERN_BYTES
    except UnicodeEncodeError:
        return False


def _is_queue(value: object) -> bool:
    return isinstance(value, str) and _QUEUE.fullmatch(value) is not None

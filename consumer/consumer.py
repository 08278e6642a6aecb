"""
The declaration of a consumer: its name, its bindings, its handlers and hooks. No I/O.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from prometheus_client import CollectorRegistry

from consumer.declared import Declared
from consumer.hooks import DeadLettered, Failure
from consumer.lifespan import Lifespan, LifespanFunction, provided
from consumer.middleware import Middleware
from consumer.registrations import Registrations
from consumer.signature import name_of, naming, read
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.exchange import Binding, Exchange, checked_bindings
from outbox.validation import check_type

Others = ParamSpec("Others")
Result = TypeVar("Result", bound=Awaitable[None])

MOST_PARTITIONS = 256

RELAY = "relay"
"""The source of dead letters and the target that belong to the relay, and to no consumer."""

_QUEUE = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


class Consumer(Registrations):
    """
    A named consumer of events, with its own queue and its own rows in the dedup store.

    Args:
        name: Part of the deduplication key: under another name every message is new.
        bindings: Topic patterns on MQ_MAIN_EXCHANGE, in which `*` is one word and `#` any number,
            or a `Binding` for messages of another exchange.
        exchanges: Exchanges that its process declares, beside those of MQ_EXCHANGES.
        queue: Default is `MQ_PROCESSING_QUEUE`, a dot, and the name.
        ordered: Handle the messages of an ordering key one after another, in the order in which
            they were published; one process works at a time, others stand by.
        lifespan: A function that returns an async context manager. The process runs in it, and
            its value has the resources of handlers, middleware and hooks; see `consumer.lifespan`.
        middleware: Coroutine functions around each call of a handler, the first one outermost;
            see `consumer.middleware`.

    Raises ConfigurationError if the name is invalid or `relay`, *bindings* is empty or no list of
    patterns, *queue* is no name of a queue, *partitions* is out of range or without *ordered*, or
    a function cannot be called as it has to be.

    """

    collects_replies: ClassVar[bool] = False
    """Whether its queue is MQ_REPLY_QUEUE, which needs no bindings; see `consumer.replies`."""

    def __init__(
        self,
        name: str,
        *,
        bindings: Sequence[str | Binding],
        exchanges: Sequence[Exchange] = (),
        queue: str | None = None,
        ordered: bool = False,
        partitions: int | None = None,
        lifespan: LifespanFunction | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        _check_name(name)
        least = 0 if self.collects_replies else 1
        self.bindings = checked_bindings(f"consumer {name}", bindings, least=least)
        self.exchanges = _checked_exchanges(name, exchanges)
        if queue is not None and not _is_queue(queue):
            raise ConfigurationError(
                f"consumer {name}: queue must be 1 to 200 letters, digits and _.:-"
            )
        if partitions is not None:
            _check_partitions(name, partitions, ordered=ordered)
        with naming(f"consumer {name}"):
            entered = None if lifespan is None else Lifespan(lifespan)
        super().__init__(name, ordered=ordered, lifespan=entered)
        self.queue = queue
        self.partitions = partitions
        self.middleware = [
            self._declared("middleware", each, ("call", "call_next")) for each in middleware
        ]
        self.failure_hooks: list[Declared] = []
        self.dead_letter_hooks: list[Declared] = []

    def register_metrics(self, registry: CollectorRegistry) -> None:
        """Register the metrics of this kind of consumer, before its process starts."""

    def on_failure(
        self, function: Callable[Concatenate[Failure, Others], Result], /
    ) -> Callable[Concatenate[Failure, Others], Result]:
        """
        Call the decorated coroutine function after each failed call of a handler.

        It gets the message and the exception in a `Failure`, and resources like a handler. The
        consumer calls it beside its work, for at most 10 seconds: its own failure is logged, and
        changes nothing. Raises ConfigurationError unless it can be called so.
        """
        self.failure_hooks.append(self._declared("on_failure", function, ("failure",)))
        return function

    def on_dead_letter(
        self, function: Callable[Concatenate[DeadLettered, Others], Result], /
    ) -> Callable[Concatenate[DeadLettered, Others], Result]:
        """
        Call the decorated coroutine function after each message that was given up.

        Like `on_failure`, with a `DeadLettered`. A process that ends between the dead letter and
        the call does not call it; the row in `dead_letters` is the record.
        """
        self.dead_letter_hooks.append(self._declared("on_dead_letter", function, ("dead_letter",)))
        return function

    def _declared(self, kind: str, function: Any, arguments: tuple[str, ...]) -> Declared:
        with naming(f"consumer {self.name}: {kind}", separator=" "):
            found = read(function, parameters=arguments)
            wanted, name = found.resources, name_of(function)
            resources = provided(self.lifespan, name, wanted, arguments)
        return Declared(function, resources)


def _check_name(name: str) -> None:
    try:
        check_type(name)
    except InvalidEvent:
        raise ConfigurationError("consumer name: must be words joined by dots") from None
    if name == RELAY:
        raise ConfigurationError(
            f"consumer name: must not be {RELAY}, the source of the relay in dead_letters"
        )


def _check_partitions(name: str, partitions: object, *, ordered: bool) -> None:
    # `type`, because True is an instance of int.
    if type(partitions) is not int or not 1 <= partitions <= MOST_PARTITIONS:
        raise ConfigurationError(
            f"consumer {name}: partitions must be a number from 1 to {MOST_PARTITIONS}"
        )
    if not ordered:
        raise ConfigurationError(
            f"consumer {name}: partitions keep an order, so they need ordered=True; processes of"
            " another consumer share one queue"
        )


def _checked_exchanges(name: str, values: object) -> tuple[Exchange, ...]:
    """Callers without a type checker err."""
    if not isinstance(values, Sequence) or not all(isinstance(each, Exchange) for each in values):
        raise ConfigurationError(f"consumer {name}: exchanges must be a list of Exchanges")
    return tuple(values)


def _is_queue(value: object) -> bool:
    return isinstance(value, str) and _QUEUE.fullmatch(value) is not None

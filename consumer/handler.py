"""
A handler and the options with which it was registered: values, no I/O.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeAlias, TypedDict

from consumer.declared import Declared
from consumer.lifespan import Provided
from consumer.message import Message
from consumer.middleware import Function, around
from consumer.payload_type import UNCHECKED, PayloadType
from outbox.backoff import RetrySchedule
from outbox.errors import ConfigurationError

Filter: TypeAlias = Callable[[Message[Any]], bool]

LONGEST_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """
    A rate of at most *messages* per period *per*, in each process.

    After a pause, once, this number of messages can be handled at the same time.
    Raises ConfigurationError unless both are positive.
    """

    messages: int
    per: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        _check_kind("rate_limit: messages", self.messages, int)
        _check_kind("rate_limit: per", self.per, timedelta)
        if self.messages < 1 or self.per <= timedelta(0):
            raise ConfigurationError("rate_limit: messages and per must be positive")

    @property
    def interval(self) -> float:
        """Seconds from one message to the next at the full rate."""
        return self.per.total_seconds() / self.messages


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """
    After *failures* in a row the handler is not called for *pause*, and then once, as a trial.

    While the breaker is open, a failure is not counted as an attempt at its message.
    Raises ConfigurationError unless both are positive.
    """

    failures: int = 5
    pause: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        _check_kind("circuit_breaker: failures", self.failures, int)
        _check_kind("circuit_breaker: pause", self.pause, timedelta)
        if self.failures < 1 or self.pause <= timedelta(0):
            raise ConfigurationError("circuit_breaker: failures and pause must be positive")


class OnLeaseExpired(StrEnum):
    """What to do with a message whose lease expired before its handler ended."""

    RETRY = "retry"
    """Call the handler again: at least once. The other side must recognise the idempotency key."""
    DEAD_LETTER = "dead_letter"
    """Dead-letter the message, so that an operator decides: at most once."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to handle a message for *duration*, extended while the handler works."""

    duration: timedelta
    on_expired: OnLeaseExpired

    def __post_init__(self) -> None:
        _check_kind("lease", self.duration, timedelta)
        # A string of the same value is no member: it would match no case, and the lease no end.
        _check_kind("on_expired", self.on_expired, OnLeaseExpired)
        if self.duration < timedelta(seconds=1):
            raise ConfigurationError("lease: must be at least a second")


class Options(TypedDict, total=False):
    """
    The options of every kind of handler.

    filter: returns whether to handle a message; the others are acked and counted as `filtered`.
    timeout: how long a call may take; after it the attempt has failed.
    rate_limit, circuit_breaker: while they stop the handler, its messages wait; no attempt counts.
    retry: the retry policy, instead of `MQ_RETRY_DELAYS` and `MQ_MAX_RETRIES`.
    """

    filter: Filter | None
    timeout: timedelta | None
    rate_limit: RateLimit | None
    circuit_breaker: CircuitBreaker | None
    retry: RetrySchedule | None


async def _undecorated(*_: object) -> object:
    """Placeholder until `Consumer.on` has decorated the function."""


@dataclass(frozen=True, slots=True)
class Handler:
    """
    The handler of one event type.

    Args:
        batch_size: The most messages that share a transaction; None if `BatchSizes` decides.
        takes_list: *function* is called with a list of messages.
        lease: *function* is called with the message alone, outside any transaction.
        resources: The further arguments of *function*, by their names.
        answers: It answers requests: *function* is annotated with what it returns.
        call: *function* with its resources and the middleware, once they are `bound`.

    Raises ConfigurationError with the name of the option that is invalid.

    """

    event_type: str
    function: Function = field(default=_undecorated, repr=False)
    batch_size: int | None = 1
    takes_list: bool = False
    lease: Lease | None = None
    payload_type: PayloadType = UNCHECKED
    filter: Filter | None = None
    timeout: timedelta | None = None
    rate_limit: RateLimit | None = None
    circuit_breaker: CircuitBreaker | None = None
    retry: RetrySchedule | None = None
    resources: Mapping[str, Provided] = field(default_factory=dict, repr=False)
    answers: bool = False
    call: Function = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "call", self.function)
        if self.batch_size is not None:
            _check_kind("batch_size", self.batch_size, int)
            if not 1 <= self.batch_size <= LONGEST_BATCH:
                raise ConfigurationError(f"batch_size: must be from 1 to {LONGEST_BATCH}")
        for name, kind in _KINDS.items():
            if (value := getattr(self, name)) is not None:
                _check_kind(name, value, kind)
        if self.filter is not None and not callable(self.filter):
            raise ConfigurationError("filter: must be a function of the message")
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise ConfigurationError("timeout: must be positive")

    @property
    def package(self) -> str | None:
        """The top-level package, or module, that *function* is part of."""
        module = getattr(self.function, "__module__", None)
        return module.partition(".")[0] if isinstance(module, str) else None

    def bound(self, middleware: Sequence[Function], value: object) -> "Handler":
        """Return the handler as it is called: with *middleware*, and resources from *value*."""
        function = Declared(self.function, self.resources).bound(value)
        called = around(
            function, middleware, event_type=self.event_type, takes_list=self.takes_list
        )
        return self.called_by(called)

    def called_by(self, call: Function) -> "Handler":
        """Return the handler with another *call*."""
        handler = replace(self)
        object.__setattr__(handler, "call", call)
        return handler


_KINDS: dict[str, type] = {
    "timeout": timedelta,
    "rate_limit": RateLimit,
    "circuit_breaker": CircuitBreaker,
    "retry": RetrySchedule,
}


def _check_kind(name: str, value: object, kind: type) -> None:
    """Callers without a type checker pass anything."""
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name}: must be of type {kind.__name__}")

"""
A handler and what was said about it when it was registered: values, no I/O.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeAlias, TypedDict

from pydantic import BaseModel

from consumer.message import Message
from outbox.backoff import RetrySchedule
from outbox.errors import ConfigurationError

Filter: TypeAlias = Callable[[Message[Any]], bool]

LONGEST_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """
    At most *messages* in a time of *per* for long, in each process, and once as many after a rest.

    Raises ConfigurationError unless both are positive.
    """

    messages: int
    per: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if self.messages < 1 or self.per <= timedelta(0):
            raise ConfigurationError("rate_limit: messages and per must be positive")

    @property
    def interval(self) -> float:
        """Seconds from one message to the next at the full rate."""
        return self.per.total_seconds() / self.messages


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """
    After *failures* in a row no message is handled for *pause*; then one, to see how it fares.

    Failures while it is open count for no message.
    Raises ConfigurationError unless both are positive.
    """

    failures: int = 5
    pause: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        if self.failures < 1 or self.pause <= timedelta(0):
            raise ConfigurationError("circuit_breaker: failures and pause must be positive")


class OnLeaseExpired(StrEnum):
    """What becomes of a message whose handler has not ended before its lease was over."""

    RETRY = "retry"
    """Call the handler again: at least once. The other side has to know the idempotency key."""
    DEAD_LETTER = "dead_letter"
    """Give the message up, for a human: at most once."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to handle a message for *duration*, extended while the handler works."""

    duration: timedelta
    on_expired: OnLeaseExpired

    def __post_init__(self) -> None:
        if self.duration < timedelta(seconds=1):
            raise ConfigurationError("lease: must be at least a second")


class Options(TypedDict, total=False):
    """
    What any handler can be given.

    model: the pydantic model of the payload; None is a JSON value, or bytes.
    filter: which messages of the type to handle; the others are acked and counted as `filtered`.
    timeout: how long the handler may take before it has failed.
    rate_limit, circuit_breaker: see there; messages wait meanwhile, and no attempt is counted.
    retry: when failed messages are tried again, instead of `MQ_RETRY_DELAYS` and `MQ_MAX_RETRIES`.
    """

    model: type[BaseModel] | None
    filter: Filter | None
    timeout: timedelta | None
    rate_limit: RateLimit | None
    circuit_breaker: CircuitBreaker | None
    retry: RetrySchedule | None


async def _nothing(*_: object) -> None:
    """What stands for a function that is not decorated yet."""


@dataclass(frozen=True, slots=True)
class Handler:
    """
    What to do with the events of one type.

    Args:
        batch_size: How many messages share a transaction at most.
        takes_list: *function* is called with a list of messages.
        lease: *function* is called with the message alone, outside of any transaction.

    Raises ConfigurationError, which names the option.

    """

    event_type: str
    function: Callable[..., Awaitable[None]] = field(default=_nothing, repr=False)
    batch_size: int = 1
    takes_list: bool = False
    lease: Lease | None = None
    model: type[BaseModel] | None = None
    filter: Filter | None = None
    timeout: timedelta | None = None
    rate_limit: RateLimit | None = None
    circuit_breaker: CircuitBreaker | None = None
    retry: RetrySchedule | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= LONGEST_BATCH:
            raise ConfigurationError(f"batch_size: must be from 1 to {LONGEST_BATCH}")
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise ConfigurationError("timeout: must be positive")

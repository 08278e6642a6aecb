"""
The object by which a test uses relay and consumers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Unpack

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

import outbox
from consumer.consumer import Consumer
from consumer.verdict import DeadLetter
from outbox.database.engine import DEFERRED
from outbox.errors import ConfigurationError, Unavailable, UnreadableMessage
from outbox.event import EventFields
from outbox.record import Recordable
from outbox.testing import RecordedEvent
from outbox.testing.assertions import Kind, accepted, expectation
from outbox.testing.expectation import ANY, Fields
from outbox_testing.clock import SkippingClock
from outbox_testing.database import let_pass
from outbox_testing.delivered import NO_PAYLOAD, delivery_of, event_of
from outbox_testing.drained import Drained, Settled, explained, settled_by
from outbox_testing.handling import Handling
from outbox_testing.publishing import Publishing
from outbox_testing.record import HELD, Record

MOST_ROUNDS = 200
"""The most times that handlers may record events in answer to events."""


_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of an `App`; *exchange* is the one to which the relay publishes."""

    database_url: URL
    broker_url: str
    engine: AsyncEngine
    exchange: str
    publishing: Publishing
    handlings: Sequence[Handling]
    record: Record
    clock: SkippingClock


class App:
    """
    Relay and consumers in the process of the test; `running` makes it.

    `engine` is for code under test that makes sessions of its own, and `database_url`, with the
    driver for asyncio, if it makes an engine too; `broker_url` is for other clients.
    `sessionmaker` makes sessions that do not expire on commit. `published` has all events that
    the relay has published, in order.
    """

    def __init__(self, parts: Parts) -> None:
        driver = _DRIVERS[parts.engine.dialect.name]
        self.database_url = parts.database_url.set(drivername=driver)
        self.broker_url = parts.broker_url
        self.engine = parts.engine
        # On SQLite a session that only reads would keep relay and consumer from writing.
        options = DEFERRED if parts.engine.dialect.name == "sqlite" else {}
        self.sessionmaker = async_sessionmaker(
            parts.engine.execution_options(**options), expire_on_commit=False
        )
        self.published: list[RecordedEvent] = []
        self._parts = parts

    def session(self) -> AsyncSession:
        """Return a session, which commits when the test says so."""
        return self.sessionmaker()

    async def record(self, *events: Recordable) -> None:
        """Record *events* in a transaction of their own, and commit it."""
        async with self.sessionmaker.begin() as session:
            outbox.add(session, *events)

    async def call(
        self,
        kind: object,
        payload: Any = NO_PAYLOAD,
        /,
        *,
        consumer: Consumer | None = None,
        attempt: int = 1,
        redelivered: bool = False,
        **fields: Unpack[EventFields],
    ) -> Settled:
        """
        Call the handler for one event, as if it was delivered, and commit.

        *kind* is an event type or a class with `event_type`, with a *payload*; or an event or a
        model that can be recorded. The payload is encoded, and decoded as the handler declares;
        filter, dedup and transaction are those of the consumer. *consumer* is needed if several
        have a handler for the type.

        Returns `Settled.HANDLED`, `DUPLICATE` or `FILTERED`. An error of the handler is raised as
        it is; nothing is committed then, and there is no retry. Raises UnreadableMessage if the
        message would be dead-lettered without a call: no handler, or a payload that does not fit.
        """
        __tracebackhide__ = True
        event = event_of(kind, payload, fields)
        handling = self._handling(event.type, consumer)
        delivery = delivery_of(
            event, exchange=self._parts.exchange, attempt=attempt, redelivered=redelivered
        )
        with _explained():
            verdict = await handling.call(delivery)
        if failures := self._parts.record.take().failures:
            raise explained(failures[0].error)
        if isinstance(verdict, DeadLetter):
            raise UnreadableMessage(verdict.code, verdict.detail)
        return settled_by(verdict)

    async def drain(self, *, raises: bool = True) -> Drained:
        """
        Publish and handle everything that is due, until nothing is left; returns what was done.

        The failures of handlers are raised at the end, in an ExceptionGroup: the errors
        themselves, with their tracebacks. So are messages that were dead-lettered without a call
        of a handler. Without *raises* they are only returned. Failed messages wait for their
        retry, see `advance`. An event that no consumer takes is no failure: see
        `Drained.unrouted`.

        Raises RuntimeError if handlers record events for ever, and DatabaseUnavailable or
        BrokerUnavailable.
        """
        __tracebackhide__ = True
        with _explained():
            for _ in range(MOST_ROUNDS):
                worked = await self._parts.publishing.run()
                for handling in self._parts.handlings:
                    worked |= await handling.run()
                if not worked:
                    break
            else:
                raise RuntimeError("there is no end: does a handler record its own event?")
        drained = self._parts.record.take()
        self.published += drained.published
        if raises:
            drained.raise_failures()
        return drained

    async def advance(self, duration: timedelta, *, raises: bool = True) -> Drained:
        """
        Let *duration* pass at once, and `drain` what is due then.

        It moves retries, events with `not_before`, parked messages of ordered consumers, leases of
        processes that have ended, circuit breakers and rate limits. It does not move the clocks of
        the process and of the servers: `datetime.now`, the `timeout` of a handler, `now()` in SQL
        and the retention of the dedup store.
        """
        __tracebackhide__ = True
        if duration < timedelta(0):
            raise ValueError("duration: must not be negative")
        self._parts.clock.advance(duration)
        with _explained():
            await let_pass(self.engine, duration)
        return await self.drain(raises=raises)

    def assert_published(
        self,
        kind: Kind,
        /,
        *,
        payload: Any = ANY,
        count: int | None = None,
        **fields: Unpack[Fields],
    ) -> list[RecordedEvent]:
        """
        Assert that the relay has published such an event; returns those events.

        The arguments are those of `outbox.testing.assert_recorded`. Raises AssertionError.
        """
        __tracebackhide__ = True
        expected = expectation(kind, payload, fields)
        return accepted(self.published, expected, count, act="published")

    def _handling(self, event_type: str, consumer: Consumer | None) -> Handling:
        found = [
            each
            for each in self._parts.handlings
            if (each.declared is consumer if consumer else event_type in each.consumer.handlers)
        ]
        if len(found) == 1:
            return found[0]
        if consumer is not None:
            raise ConfigurationError(f"consumer {consumer.name}: is not one of those that run")
        if not found:
            raise UnreadableMessage("no_handler", event_type)
        names = ", ".join(each.consumer.name for each in found)
        raise ConfigurationError(f"consumer: several have a handler for {event_type}: {names}")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        error.add_note(HELD)
        raise

"""
Purges the dedup store: rows older than the retention are deleted, a batch at a time.

Two clocks decide. The consumer's clock says whether a message is too old to be handled, against
the time at which the producer's database recorded it. The clock of the consumer's database says
whether a row is too old to be kept, against the time at which that database wrote it. If a row
were purged while its message still counts as young, the message could take effect again; so rows
stay for `MARGIN` longer, which is more than the clocks of servers differ.

A parked message may wait for longer than the retention, and it may be the second copy of one that
is completed first. So rows that are younger than the oldest parked message stay as well.

Each round also deletes rows of failing messages that never came again, at the same age.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import checks
from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.storage.failing import FailingMessages
from consumer.storage.purge import PURGE_LIMIT, parked_since, purge
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError, DatabaseUnavailable
from outbox.runtime.service import pause

MARGIN = timedelta(hours=1)
PURGE_EVERY = timedelta(minutes=10)


class Retention:
    """
    Purges rows of *consumer* that are *older_than* this and `MARGIN`.

    *on_purged* is called with the number of rows of each batch that `run` has deleted, or with
    the error for which it deleted none.
    Raises ConfigurationError if the age is below the *horizon*, the longest time after which a
    message may be delivered again. An *ordered* consumer has parked messages.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        consumer: str,
        *,
        older_than: timedelta,
        horizon: timedelta,
        ordered: bool = False,
        on_purged: Callable[[int | DatabaseUnavailable], None] | None = None,
    ) -> None:
        if older_than < horizon:
            raise ConfigurationError("the dedup store is not purged below its horizon")
        self._engine = engine
        self._consumer = consumer
        self._age = older_than + MARGIN
        self._failing = FailingMessages(consumer)
        self._ordered = ordered
        self._on_purged = on_purged
        # The end of the last batch: until vacuum runs, the index below it holds deleted rows only,
        # and each batch would read them again.
        self._since: datetime | None = None
        # Read once for each round: rows that are written meanwhile are too young to be purged.
        self._before: datetime | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Purge until *stop* is set, a round every 10 minutes."""
        while not stop.is_set():
            result: int | DatabaseUnavailable
            try:
                result = await self.batch()
            except DatabaseUnavailable as error:
                result = error
            if self._on_purged is not None:
                self._on_purged(result)
            if result != PURGE_LIMIT:
                await pause(stop, PURGE_EVERY)

    async def batches(self, stop: asyncio.Event) -> AsyncIterator[int]:
        """Purge one round, or until *stop* is set; yields the number of rows of each batch."""
        rows = PURGE_LIMIT
        while rows == PURGE_LIMIT and not stop.is_set():
            rows = await self.batch()
            yield rows

    async def batch(self) -> int:
        """
        Purge one batch in its own transaction; returns the number of rows.

        Fewer than `PURGE_LIMIT` end a round; the next round begins at the oldest row.
        Raises DatabaseUnavailable.
        """
        with driver_errors_translated():
            async with self._engine.begin() as connection:
                if self._since is None:
                    await self._failing.purge(connection, older_than=self._age)
                if self._ordered and self._since is None:
                    oldest = await parked_since(connection, self._consumer)
                    self._before = oldest and oldest - MARGIN
                purged = await purge(
                    connection,
                    self._consumer,
                    older_than=self._age,
                    since=self._since,
                    before=self._before,
                )
        self._since = purged.until if purged.rows == PURGE_LIMIT else None
        return purged.rows


def retention(
    consumer: Consumer,
    settings: ConsumerSettings,
    engine: AsyncEngine,
    *,
    older_than: timedelta,
    on_purged: Callable[[int | DatabaseUnavailable], None] | None = None,
) -> Retention:
    """
    The purge of dedup rows of *consumer* that are *older_than* this; for *on_purged* see there.

    Raises ConfigurationError if that is below the horizon of its settings.
    """
    checks.check_retention("--older-than", older_than, consumer, settings)
    horizon = checks.horizon(consumer, settings)
    return Retention(
        engine,
        consumer.name,
        older_than=older_than,
        horizon=horizon,
        ordered=consumer.ordered,
        on_purged=on_purged,
    )

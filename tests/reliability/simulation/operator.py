"""
The operator of a simulated system: replays dead letters and purges the dedup store by command.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import consumer.replay
import relay.replay
from consumer import Consumer
from consumer.assembly import database
from consumer.maintenance.retention import retention
from consumer.settings import ConsumerSettings
from consumer.verdict import RETRIES_EXHAUSTED
from outbox.audit.log import Audit
from outbox.dead_letters.replay import Run
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import Unavailable
from relay.settings import RelaySettings
from relay.storage.settlement import SOURCE

REPLAYED_WITHIN = timedelta(hours=1)
"""What is older may have been forgotten; an operator who replays it knows what he does."""


def of_relay(settings: RelaySettings) -> DeadLetterSource:
    """The dead letters of relays."""
    return relay.replay.dead_letter_source(settings)


def of_consumer(declared: Consumer, settings: ConsumerSettings) -> DeadLetterSource:
    """The dead letters of a consumer."""
    return consumer.replay.dead_letter_source(declared, settings)


async def replay(source: DeadLetterSource, run: UUID) -> None:
    """Replay recent dead letters of the relay, or those of failed handlers."""
    reason = None if source.name == SOURCE else RETRIES_EXHAUSTED
    selection = Selection(reason=reason, newer_than=REPLAYED_WITHIN)
    audit = Audit(
        actor="operator", because="fixed", source=source.name, selection=selection, run=run
    )
    # The operator sees that a server is unavailable, and runs the command again.
    with suppress(Unavailable):
        async with source.opened(selection) as opened, source.destination() as destination:
            await Run(
                engine=opened.engine,
                store=opened.store,
                snapshot=opened.snapshot,
                audit=audit,
                stop=asyncio.Event(),
                on_progress=lambda _: None,
            ).replay(destination, duplicates=source.duplicates)


async def purge(declared: Consumer, settings: ConsumerSettings) -> None:
    """Purge rows older than the retention."""
    with suppress(Unavailable):
        async with database(declared, settings) as engine:
            batches = retention(declared, settings, engine, older_than=settings.retention)
            async for _ in batches.batches(asyncio.Event()):
                pass

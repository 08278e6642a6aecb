"""
The relay of a test, one batch at a time.
"""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health
from outbox.transports.base import Publisher
from outbox_testing.record import RelayTelemetry
from relay import assembly
from relay.ordering_key_hash import OrderingKeyHasher
from relay.settings import RelaySettings
from relay.wakeup import Polling, WakeSignal


@dataclass(frozen=True, slots=True)
class Publishing:
    """Publishes the events in the database of *engine* by *publisher*."""

    settings: RelaySettings
    engine: AsyncEngine
    publisher: Publisher
    key_hasher: OrderingKeyHasher
    telemetry: RelayTelemetry

    async def run(self) -> bool:
        """
        Publish all events that are due; returns whether there were any.

        Raises DatabaseUnavailable and BrokerUnavailable.
        """
        # Another one each time: its first claim looks at all rows, later ones pass some by.
        store = assembly.store(self.engine, self.settings, on_standby=_refuse_standby)
        relay = assembly.assemble(
            self.settings,
            store,
            self.publisher,
            self.key_hasher,
            wakeup=Polling(),
            wake_signal=WakeSignal(),
            telemetry=self.telemetry,
            health=Health(),
        )
        try:
            found = False
            while await store.promote():
                pass
            while (claimed := await relay.run_once()).rows or claimed.more:
                found = True
            return found
        finally:
            await store.close()


def _refuse_standby(stands_by: bool) -> None:
    if stands_by:
        raise DatabaseUnavailable("another relay works on the SQLite file")

"""
The relay of txoutbox, tuned.

- A batch is 200 rows, all of them published at once.
- Six relays in the process: some publish while the others claim and acknowledge.
- No limit of time for a publish, which costs a timer each.
- No strict ordering, as no row has a key; so claims take no lock of the table.
- Rows are deleted, as in the product.
- New rows wake it by NOTIFY.
"""

import asyncio
import sys

import asyncpg
import uvloop
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage

from tests.benchmarks.peers.publishing import dsn, publisher

TABLE = "peer_txoutbox"
BATCH, RELAYS = 200, 6


def _storage(pool: asyncpg.Pool) -> PostgresStorage:
    return PostgresStorage(
        pool,
        table=TABLE,
        strict_ordering=False,
        delete_on_ack=True,
        notify_channel=TABLE,
    )


async def prepare() -> None:
    """Create the table."""
    async with asyncpg.create_pool(dsn(), min_size=1) as pool:
        await _storage(pool).create_schema()
    print("ready", flush=True)


async def run() -> None:
    """Relay until the process is ended."""
    config = RelayConfig(batch_size=BATCH, concurrency=BATCH, publish_timeout=None)
    async with (
        asyncpg.create_pool(dsn(), min_size=RELAYS + 1, max_size=RELAYS + 1) as pool,
        publisher() as publish,
        asyncio.TaskGroup() as group,
    ):
        storage = _storage(pool)

        async def send(message: OutboxMessage) -> None:
            await publish(message.headers["event_id"], message.payload)

        relays = [Relay(storage, send, config=config) for _ in range(RELAYS)]

        def wake() -> None:
            for relay in relays:
                relay.wake()

        await storage.listen(wake)
        for relay in relays:
            group.create_task(relay.run())
        print("ready", flush=True)


if __name__ == "__main__":
    uvloop.run({"prepare": prepare, "run": run}[sys.argv[1]]())

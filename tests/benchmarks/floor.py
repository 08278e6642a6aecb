"""
The least that a wake-up, one publish and one confirm can take, without any outbox.

    python -m tests.benchmarks.floor FILE

Listens on a connection of its own and publishes one message for each notification, confirmed,
several at a time if they come so close. Writes the id of the notification, and the monotonic clock
at the confirm.

What is in its favour: nothing is read from a table, claimed or removed; the body is always the
same; and it calls aiormq itself, without the layer above.
"""

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

from pamqp.commands import Basic

from tests.benchmarks import outbox_rows
from tests.benchmarks.contenders import EXCHANGE, connections
from tests.benchmarks.producers import FLOOR_CHANNEL

_PERSISTENT = 2


async def listen(file: Path) -> None:
    """Publish what is notified, until the process is ended."""
    body = outbox_rows.body(random.Random(3))
    async with connections() as (database, outer), asyncio.TaskGroup() as group:
        channel = await outer.get_underlay_channel()
        with file.open("a", buffering=1) as lines:

            async def publish(identity: str) -> None:
                answer = await channel.basic_publish(
                    body,
                    exchange=EXCHANGE,
                    routing_key=outbox_rows.EVENT_TYPE,
                    properties=Basic.Properties(delivery_mode=_PERSISTENT, message_id=identity),
                    mandatory=True,
                )
                if isinstance(answer, Basic.Ack):
                    lines.write(f"{identity} {time.monotonic()}\n")

            def notified(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
                group.create_task(publish(payload))

            await database.add_listener(FLOOR_CHANNEL, notified)
            print("ready", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(listen(Path(sys.argv[1])))

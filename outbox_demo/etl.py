"""
The consumer of a run: `consumer run outbox_demo.etl:etl`.

Its handlers insert one row for each message and do not check for an earlier one: only the dedup
store makes sure that a message has one effect.
"""

import hashlib
import json
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from outbox import HealthDataMessage
from outbox_demo.run import Run
from outbox_demo.tables import Tables


def record(event_type: str, message_id: UUID | str, key: str, payload: Any) -> dict[str, Any]:
    """The row for an event: the producer and the consumer each insert one."""
    row: dict[str, Any] = {"message_id": message_id, "idempotency_key": key}
    if isinstance(payload, HealthDataMessage):
        return row | {
            "record_type": payload.record_type,
            "content_hash": payload.content_hash,
            "file_size_bytes": payload.file_size_bytes,
        }
    content = json.dumps(payload, sort_keys=True).encode()
    return row | {
        "record_type": event_type,
        "content_hash": hashlib.sha256(content).hexdigest(),
        "file_size_bytes": len(content),
    }


def consumer_of(run: Run) -> Consumer:
    """The consumer of *run*, which receives only the events of this run."""
    consumer = Consumer(run.consumer, bindings=[f"{run.prefix}#"])
    effects = Tables.of(run).effects

    @consumer.on(HealthDataMessage)
    async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None:
        upload = message.payload
        if (upload.message_id, upload.idempotency_key) != (message.id, message.idempotency_key):
            raise ValueError("body and envelope belong to different messages")
        await insert(message, session)

    async def insert(message: Message[Any], session: AsyncSession) -> None:
        row = record(message.type, message.id, message.idempotency_key, message.payload)
        await session.execute(sa.insert(effects).values(row))

    for event_type in run.types:
        consumer.on(event_type)(insert)
    return consumer


etl = consumer_of(Run.from_environment())

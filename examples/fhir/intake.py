"""
Records a bundle that was received: `python -m examples.fhir.intake` takes a synthetic one.

A FHIR server calls `receive` from its endpoint: examples/fastapi_service shows such a service.
"""

import asyncio
import hashlib

from fhir.resources.bundle import Bundle
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from examples.database import connect
from examples.fhir.bundles import CONTENT_TYPE, InvalidBundle, bundle_of
from examples.fhir.synthetic import transaction
from outbox import Event

TRANSACTION_RECEIVED = "fhir.transaction.received"


async def receive(engine: AsyncEngine, body: bytes) -> Event:
    """Record the transaction in *body*, as it is; raises InvalidBundle."""
    bundle = await asyncio.to_thread(bundle_of, body)
    if bundle.type != "transaction":
        raise InvalidBundle("type")
    event = Event(
        TRANSACTION_RECEIVED,
        body,
        content_type=CONTENT_TYPE,
        idempotency_key=_key_of(bundle, body),
    )
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, event)
    return event


def _key_of(bundle: Bundle, body: bytes) -> str:
    """From the persistent identifier of *bundle*, or from its content if it has none."""
    identifier = bundle.identifier
    named = b"" if identifier is None else f"{identifier.system}|{identifier.value}".encode()
    return hashlib.sha256(named or body).hexdigest()


async def main() -> None:
    engine = connect()
    body = transaction(600, seed=1)
    await receive(engine, body)
    print(f"recorded a bundle of {len(body):,} bytes")
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())

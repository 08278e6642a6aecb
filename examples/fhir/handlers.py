"""
Observations become rows, and a subscriber gets the high ones.

    consumer run examples.fhir.handlers:store
    consumer run examples.fhir.handlers:subscriber
"""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from fhir.resources.bundle import Bundle, BundleEntry
from fhir.resources.codeableconcept import CodeableConcept
from fhir.resources.observation import Observation
from fhir.resources.quantity import Quantity
from fhir.resources.reference import Reference
from fhir.resources.subscriptionstatus import SubscriptionStatus
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message, Reject
from examples.fhir.bundles import InvalidBundle, bundle_of
from examples.fhir.intake import TRANSACTION_RECEIVED
from examples.fhir.subscription import HIGH_GLUCOSE, NOTIFIED, notify
from examples.fhir.tables import notified, observations

HIGH = Decimal("13.9")

store = Consumer("fhir-store", bindings=["fhir.transaction.#"])
subscriber = Consumer("fhir-subscriber", bindings=["fhir.subscription.#"], ordered=True)


@store.on(TRANSACTION_RECEIVED)
async def load(message: Message[bytes], session: AsyncSession) -> None:
    """Store all observations of the bundle, or none, and notify about the high ones."""
    try:
        bundle = await asyncio.to_thread(bundle_of, message.payload)
    except InvalidBundle:
        raise Reject("bundle_invalid") from None
    rows = list(rows_of(bundle))
    if rows:
        await session.execute(sa.insert(observations), rows)
    if high := [row["full_url"] for row in rows if Decimal(row["value"]) > HIGH]:
        await notify(session, HIGH_GLUCOSE, high)


def rows_of(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """The observations of *bundle* that have a code, a subject and a quantity."""
    for entry in bundle.entry or []:
        match entry.resource:
            case Observation(
                code=CodeableConcept(coding=[coding, *_]),
                subject=Reference(reference=subject),
                valueQuantity=Quantity(value=Decimal() as value, unit=unit),
                effectiveDateTime=effective,
            ):
                yield {
                    "full_url": entry.fullUrl,
                    "subject": subject,
                    "code": coding.code,
                    "value": str(value),
                    "unit": unit,
                    "effective": effective,
                }


@subscriber.on(NOTIFIED)
async def receive(message: Message[Bundle], session: AsyncSession) -> None:
    """Store the events of the notification; a gap in their numbers would show a lost one."""
    match message.payload.entry:
        case [BundleEntry(resource=SubscriptionStatus() as status), *_]:
            if rows := list(events_of(status)):  # a heartbeat has none
                await session.execute(sa.insert(notified), rows)
        case _:
            raise Reject("no_subscription_status")


def events_of(status: SubscriptionStatus) -> Iterator[dict[str, Any]]:
    for event in status.notificationEvent or []:
        yield {
            "subscription": status.subscription.reference,
            "number": event.eventNumber,
            "focus": event.focus.reference if event.focus else None,
        }

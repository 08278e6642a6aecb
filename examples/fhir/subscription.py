"""
A notification of a subscription, whose events are numbered in the transaction that records them.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from fhir.resources.bundle import Bundle
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from examples.fhir.bundles import CONTENT_TYPE
from examples.fhir.tables import subscriptions
from outbox import Event

NOTIFIED = "fhir.subscription.notified"
HIGH_GLUCOSE = "https://example.org/SubscriptionTopic/high-glucose"


async def notify(session: AsyncSession, topic: str, focus: Sequence[str]) -> None:
    """
    Record a notification about the resources *focus* for each subscription of *topic*.

    The update locks the row of the subscription until the transaction ends. So its numbers have no
    gaps, and its notifications are recorded, and published, in the order of the numbers.
    """
    counted = await session.execute(
        sa.update(subscriptions)
        .where(subscriptions.c.topic == topic)
        .values(events=subscriptions.c.events + len(focus))
        .returning(subscriptions.c.id, subscriptions.c.events)
    )
    for subscription, last in counted:
        body = notification(subscription, topic, focus, last=last)
        event = Event(NOTIFIED, body, content_type=CONTENT_TYPE, ordering_key=subscription)
        outbox.add(session, event)


def notification(
    subscription: str, topic: str, focus: Sequence[str], *, last: int
) -> dict[str, Any]:
    """The bundle about *focus*, of which the last one has the number *last*."""
    first = last - len(focus) + 1
    status = {
        "resourceType": "SubscriptionStatus",
        "status": "active",
        "type": "event-notification",
        # Strings: they are of the type integer64.
        "eventsSinceSubscriptionStart": str(last),
        "notificationEvent": [
            {"eventNumber": str(number), "focus": {"reference": reference}}
            for number, reference in enumerate(focus, first)
        ],
        "subscription": {"reference": subscription},
        "topic": topic,
    }
    entry = {
        "fullUrl": "urn:uuid:00000000-0000-4000-8000-000000000001",
        "resource": status,
        "request": {"method": "GET", "url": f"{subscription}/$status"},
        "response": {"status": "200"},
    }
    bundle = {"resourceType": "Bundle", "type": "subscription-notification", "entry": [entry]}
    Bundle.model_validate(bundle)
    return bundle

"""
The outbox: what a producing service imports.

    async with session.begin():
        session.add(upload)
        outbox.add(session, HealthDataMessage(...))
"""

from outbox.errors import InvalidEvent, OutboxError
from outbox.event import Event, Priority
from outbox.health_data import HEALTH_DATA_UPLOADED, HealthDataMessage
from outbox.record import add, insert
from outbox.tables import metadata
from outbox.validation import allow_headers

__all__ = [
    "HEALTH_DATA_UPLOADED",
    "Event",
    "HealthDataMessage",
    "InvalidEvent",
    "OutboxError",
    "Priority",
    "add",
    "allow_headers",
    "insert",
    "metadata",
]

"""
Events, uploads and messages with readable defaults; a test names only the fields it needs.
"""

from datetime import UTC, datetime
from typing import Any

from outbox import Event, HealthDataMessage
from outbox.wire import codec, row_codec
from outbox.wire.codec import WireMessage
from outbox.wire.envelope import Envelope

AN_INSTANT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LEAK_MARKER = "canary-of-health-data"
"""Health data that tests plant in bodies and keys; it must never appear anywhere else."""

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""As in the examples of W3C Trace Context; the producer's trace is recorded."""


def an_event(**changes: Any) -> Event:
    values: dict[str, Any] = {"type": "test.happened", "payload": {"number": 1}}
    return Event(**{**values, **changes})


def an_upload(**changes: Any) -> HealthDataMessage:
    values: dict[str, Any] = {
        "bucket": "uploads",
        "key": "2026/01/02/records.avro",
        "user_id": LEAK_MARKER,
        "upload_timestamp_utc": AN_INSTANT,
        "record_type": "BloodGlucoseRecord",
        "content_hash": "0" * 64,
        "file_size_bytes": 1024,
        "record_count": 10,
        "health_metadata": {"note": LEAK_MARKER},
    }
    return HealthDataMessage(**{**values, **changes})


def on_the_wire(event: Event, *, exchange: str, **columns: Any) -> WireMessage:
    """*event* as a relay publishes it; *columns* replace columns of its outbox row."""
    row = {
        **row_codec.to_row(event),
        "exchange": None,
        "content_encoding": None,
        "created_at": datetime.now(UTC),
        **columns,
    }
    return codec.to_wire(row_codec.from_row(row), exchange=exchange)


def an_envelope(**changes: Any) -> Envelope:
    """The envelope of a delivered event."""
    return codec.from_wire(on_the_wire(an_event(**changes), exchange="main"))

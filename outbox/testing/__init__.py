"""
Helpers for tests of code that records events. They need the packages of a producer only.

    assert_recorded(session, "upload.taken", payload={"size": 3}, ordering_key="ward-1")
    [event] = recorded(session, "upload.taken")

    recorded            the events that a session has recorded
    recorded_event      such an event, its payload decoded
    expectation         which events an assertion accepts, and how it fails
    assertions          the assertions
    unawaited           calls that have to be awaited, and were not

With an `AsyncSession` or an `AsyncConnection` each of the functions is awaited. The texts of
failed assertions show payloads: let tests make up their data.
"""

from outbox.testing.assertions import assert_not_recorded, assert_recorded
from outbox.testing.recorded import recorded
from outbox.testing.recorded_event import RecordedEvent

__all__ = ["RecordedEvent", "assert_not_recorded", "assert_recorded", "recorded"]

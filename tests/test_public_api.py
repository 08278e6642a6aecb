import pytest

import consumer
import consumer.testing
import outbox
import outbox.testing


@pytest.mark.parametrize("package", [outbox, consumer, outbox.testing, consumer.testing])
def test_the_public_names_exist(package):
    assert len(package.__all__) == len(set(package.__all__))
    for name in package.__all__:
        assert hasattr(package, name)


def test_the_public_names_are_these():
    assert outbox.__all__ == [
        "HEALTH_DATA_UPLOADED",
        "TABLE_NAMES",
        "Binding",
        "Event",
        "Exchange",
        "HealthDataMessage",
        "InvalidEvent",
        "OutboxError",
        "Priority",
        "Reply",
        "Request",
        "add",
        "allow_headers",
        "include_name",
        "include_object",
        "insert",
        "metadata",
        "replies",
        "request",
        "request_in",
        "use_compression",
        "use_encryption",
        "use_schema",
    ]
    assert consumer.__all__ == [
        "Binding",
        "CallNext",
        "CircuitBreaker",
        "Consumer",
        "DeadLettered",
        "Exchange",
        "Failure",
        "HandlerCall",
        "Message",
        "Middleware",
        "OnLeaseExpired",
        "RateLimit",
        "Reject",
        "Retry",
        "RetrySchedule",
        "add_log_context",
    ]
    assert outbox.testing.__all__ == [
        "RecordedEvent",
        "assert_not_recorded",
        "assert_recorded",
        "recorded",
    ]
    assert consumer.testing.__all__ == [
        "App",
        "Drained",
        "FailedAttempt",
        "Settled",
        "SettledMessage",
        "a_message",
        "running",
    ]

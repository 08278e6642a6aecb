"""
Settings of consumers, in addition to the shared ones.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from outbox.backoff import RetrySchedule
from outbox.requests.queue import DEFAULT
from outbox.setting_types import Items
from outbox.settings import SharedSettings


def _number_of_seconds(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError("must be numbers of seconds, as in 30,300,900") from None


DelaySeconds = Annotated[float, BeforeValidator(_number_of_seconds), Field(gt=0, le=86_400)]

SPARE_CONNECTIONS = 5
"""For parked messages, the dead queue, the purge, durations, and leases."""


class ConsumerSettings(SharedSettings):
    """The settings of a consumer: concurrency, retries, dead letters, and deduplication."""

    concurrency: int = Field(
        default=8,
        ge=1,
        le=1_000,
        description="Messages, or batches, that are handled at the same time; always 1 on SQLite, "
        "which has one writer.",
    )
    prefetch: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Messages that the broker delivers ahead; at least MQ_CONCURRENCY and the "
        "largest batch. Unset: three times the larger of the two, and at least 64, or 128 if "
        "messages may share transactions.",
    )
    max_retries: int = Field(
        default=3,
        ge=0,
        le=1_000,
        description="Retries of a message whose handler failed, before it is dead-lettered; one "
        "less than its attempts.",
    )
    retry_delays: Items[DelaySeconds] = Field(
        default=(30, 300, 900),
        min_length=1,
        max_length=16,
        description="Delay before each retry, in seconds; the last one repeats.",
    )
    retry_jitter: bool = Field(
        default=False,
        description="Let half of the retries wait for the next longer delay, so that messages "
        "that failed together are not retried together.",
    )
    message_ttl_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Time after which the broker dead-letters a message that waits in the work "
        "queue. Unset: never; with a value, an outage of the consumers expires all that wait.",
    )
    delivery_limit: int = Field(
        default=20,
        ge=1,
        le=1_000,
        description="Processes that may end while they handle a message, before it is "
        "dead-lettered; at least 3 count. With MQ_DELIVERY_METHOD=callback the broker also counts "
        "each redelivery.",
    )
    unsupported_wait_seconds: float = Field(
        default=900.0,
        ge=0,
        le=86_400,
        description="How long a message without a handler, or of a newer wire format, is retried "
        "before it is dead-lettered: during a deployment another process may handle it. 0: not.",
    )
    deduplication_retention_hours: float = Field(
        default=720.0,
        gt=0,
        description="How long completed messages are remembered; an older one is dead-lettered.",
    )
    parked_body_retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="How long an ordered consumer parks a message: an older one becomes a dead "
        "letter without its body, in the order of its lane. Above the time of all retries. Unset: "
        "until it is handled or dead-lettered.",
    )
    requeue_reasons: Items[Literal["expired", "delivery_limit", "rejected", "maxlen"]] = Field(
        default=("expired",),
        description="Reasons for which a message that the broker dead-lettered is requeued into "
        "the work queue.",
    )
    max_requeues: int = Field(
        default=3,
        ge=0,
        le=1_000,
        description="Requeues of a message before it goes to `dead_letters`.",
    )
    replay_window_hours: float = Field(
        default=168.0,
        ge=0,
        description="How long after its last attempt a message may still come from a backlog or "
        "be replayed; MQ_DEDUPLICATION_RETENTION_HOURS has to cover it and all retries.",
    )
    reply_queue: str = Field(
        default=DEFAULT,
        pattern=r"^[A-Za-z0-9_.:-]{1,200}$",
        description="The queue for replies to the requests of this service. Its callers read the "
        "variable too, from the environment alone.",
    )
    lock_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Postgres: how long a statement waits for a lock, such as that of another "
        "copy; then its transaction is retried.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.prefetch is not None and self.prefetch < self.concurrency:
            raise ValueError("MQ_PREFETCH: must not be below MQ_CONCURRENCY")
        if self.concurrency + SPARE_CONNECTIONS > self.database_pool_size:
            raise ValueError(
                f"MQ_DATABASE_POOL_SIZE: must be {SPARE_CONNECTIONS} above MQ_CONCURRENCY at least"
            )
        return self

    @property
    def is_counted_by_broker(self) -> bool:
        """
        Whether the broker counts deliveries: some messages end the connection before we can.

        Otherwise the consumer counts those that it has begun, and the work queue has no limit.
        """
        return self.delivery_method == "callback" and self.brokers[0].scheme != "sqlite"

    @property
    def delays(self) -> list[timedelta]:
        """`retry_delays` as timedeltas."""
        return [timedelta(seconds=seconds) for seconds in self.retry_delays]

    @property
    def retry_policy(self) -> RetrySchedule:
        """The retry policy of handlers without one of their own."""
        return RetrySchedule(self.delays, self.max_retries, self.retry_jitter)

    @property
    def message_ttl(self) -> timedelta | None:
        """`message_ttl_seconds` as a timedelta."""
        seconds = self.message_ttl_seconds
        return None if seconds is None else timedelta(seconds=seconds)

    @property
    def parked_body_retention(self) -> timedelta | None:
        """`parked_body_retention_days` as a timedelta; None if it is not set."""
        days = self.parked_body_retention_days
        return None if days is None else timedelta(days=days)

    @property
    def unsupported_wait(self) -> timedelta:
        """`unsupported_wait_seconds` as a timedelta."""
        return timedelta(seconds=self.unsupported_wait_seconds)

    @property
    def retention(self) -> timedelta:
        """`deduplication_retention_hours` as a timedelta."""
        return timedelta(hours=self.deduplication_retention_hours)

    @property
    def replay_window(self) -> timedelta:
        """`replay_window_hours` as a timedelta."""
        return timedelta(hours=self.replay_window_hours)

    @property
    def lock_timeout(self) -> timedelta:
        """`lock_timeout_seconds` as a timedelta."""
        return timedelta(seconds=self.lock_timeout_seconds)

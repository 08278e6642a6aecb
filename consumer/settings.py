"""
Settings of consumers, besides the shared ones.
"""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from outbox.backoff import Levels
from outbox.settings import EntityName, Items, SharedSettings

DelaySeconds = Annotated[float, Field(gt=0, le=86_400)]


class ConsumerSettings(SharedSettings):
    """How much a consumer takes at once, and what it does with what fails."""

    processing_queue: EntityName = Field(
        default="health_data_processing",
        description="Prefix of the queue names: a consumer's queue is this, a dot, its name.",
    )
    concurrency: int = Field(
        default=8,
        ge=1,
        le=1_000,
        description="Messages handled side by side; on SQLite always one, as it has one writer.",
    )
    prefetch: int = Field(
        default=64,
        ge=1,
        le=65_535,
        description="Messages that the broker hands out ahead; at least the concurrency.",
    )
    max_retries: int = Field(
        default=3, ge=0, le=1_000, description="Retries before a message goes to dead_letters."
    )
    retry_delays: Items[DelaySeconds] = Field(
        default=(30, 300, 900),
        min_length=1,
        max_length=16,
        description="List of the waits before each retry, in seconds; the last one repeats.",
    )
    message_ttl_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Age at which the broker gives up a message in the work queue. Unset: never; "
        "otherwise an outage of the consumers becomes a flood of dead letters.",
    )
    delivery_limit: int = Field(
        default=20,
        ge=1,
        le=1_000,
        description="Redeliveries after which the broker gives up a message that ends each "
        "process that takes it.",
    )
    deduplication_retention_hours: float = Field(
        default=720.0,
        gt=0,
        description="How long completed messages are remembered.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.prefetch < self.concurrency:
            raise ValueError("MQ_PREFETCH: must not be below MQ_CONCURRENCY")
        if self.concurrency > self.database_pool_size:
            raise ValueError("MQ_DATABASE_POOL_SIZE: must not be below MQ_CONCURRENCY")
        longest = sum(self.retry_delays) + max(self.retry_delays) * self.max_retries
        if self.deduplication_retention_hours * 3600 <= longest:
            raise ValueError(
                "MQ_DEDUPLICATION_RETENTION_HOURS: must be longer than all retries take together"
            )
        return self

    @property
    def delays(self) -> list[timedelta]:
        """`retry_delays` as timedeltas."""
        return [timedelta(seconds=seconds) for seconds in self.retry_delays]

    @property
    def retry_policy(self) -> Levels:
        """When messages whose handler failed are tried again."""
        return Levels(self.delays, self.max_retries)

    @property
    def message_ttl(self) -> timedelta | None:
        """`message_ttl_seconds` as a timedelta."""
        seconds = self.message_ttl_seconds
        return None if seconds is None else timedelta(seconds=seconds)

    @property
    def retention(self) -> timedelta:
        """`deduplication_retention_hours` as a timedelta."""
        return timedelta(hours=self.deduplication_retention_hours)

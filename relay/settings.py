"""
Settings of the relay, in addition to the shared ones.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from outbox.backoff import Exponential
from outbox.setting_types import Items
from outbox.settings import SharedSettings
from outbox.wire.cloudevents_writer import URI_REFERENCE, CloudEventsWriter

RequiredQueue = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,200}(=[^\s=,]{1,200})?$")]

MIN_CONNECTIONS = 5
"""Two claims, the LISTEN session of an idle relay, promoting due rows, and the backlog."""


class RelaySettings(SharedSettings):
    """Batch sizes, poll intervals, deadlines and retries."""

    batch_size: int = Field(
        default=500,
        ge=2,
        le=10_000,
        description="Most events that are claimed, published and deleted together.",
    )
    batch_bytes: int = Field(
        default=4_194_304,
        ge=1_024,
        le=268_435_456,
        description="Most bytes of bodies in a batch; the last event may exceed it.",
    )
    wakeup: Literal["notify", "poll"] = Field(
        default="notify",
        description="`notify`: LISTEN and NOTIFY wake an idle relay, on Postgres without a "
        "pooler; `poll`: an idle relay only polls.",
    )
    poll_min_seconds: float = Field(
        default=0.02,
        gt=0,
        le=60,
        description="Pause between polls while events keep coming; it doubles while the outbox "
        "stays empty.",
    )
    poll_max_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="Longest pause between polls of an empty outbox."
    )
    publish_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Deadline for the broker to confirm a batch that it has received; longer on a "
        "slow network.",
    )
    publish_max_attempts: int | None = Field(
        default=None,
        ge=1,
        description="Publishes after which an event that the broker returned or refused is "
        "dead-lettered, the first one included. Unset: never.",
    )
    publish_retry_first_seconds: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="Pause after the first publish that was returned or refused; it doubles, "
        "and after a refusal it grows fourfold.",
    )
    publish_retry_max_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="Longest pause between two publishes of such an event.",
    )

    required_queues: Items[RequiredQueue] = Field(
        default=(),
        description="Queues that have to be bound to MQ_MAIN_EXCHANGE before the relay publishes, "
        "each as `queue=pattern`, or as `queue` with MQ_MANAGEMENT_URL or the embedded broker.",
    )

    cloudevents: Literal["off", "binary", "structured"] = Field(
        default="off",
        description="Publish events as CloudEvents 1.0 too: `binary` adds their attributes as "
        "headers, `structured` puts a JSON object of them around the body.",
    )
    cloudevents_source: str | None = Field(
        default=None,
        pattern=URI_REFERENCE,
        description="Attribute `source` of the CloudEvents, a URI such as "
        "`https://clinic.example/uploads`; needed unless MQ_CLOUDEVENTS is `off`.",
    )
    cloudevents_prefix: Literal["cloudEvents_", "cloudEvents:", "ce-"] = Field(
        default="cloudEvents_",
        description="Prefix of the headers in binary mode: that of the AMQP binding, its older "
        "form, or that of the bindings to RabbitMQ and HTTP.",
    )

    monitor_backlog: int = Field(
        default=10_000,
        ge=0,
        description="`relay monitor`: rows in the outbox above which it raises an alert.",
    )
    monitor_age_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="`relay monitor`: age above which it raises an alert for an event that should "
        "have left the outbox.",
    )
    monitor_dead_letters: int = Field(
        default=0,
        ge=0,
        description="`relay monitor`: dead letters above which it raises an alert.",
    )
    monitor_queue_messages: int = Field(
        default=10_000,
        ge=0,
        description="`relay monitor`: messages in a queue above which it raises an alert.",
    )
    monitor_consumers: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="`relay monitor`: subscriptions below which it raises an alert for a work "
        "queue. 0: never, also for a consumer without a process.",
    )
    monitor_memory_ratio: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="`relay monitor`: share of the memory limit of the broker above which it "
        "raises an alert.",
    )
    monitor_disk_free_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        description="`relay monitor`: free bytes on the disk of the broker below which it raises "
        "an alert.",
    )
    monitor_unseen_seconds: float = Field(
        default=30.0,
        ge=15,
        le=86_400,
        description="`relay monitor`: seconds without a report, of which a process writes one in "
        "10 seconds, after which it counts as gone.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("MQ_POLL_MIN_SECONDS: must not be above MQ_POLL_MAX_SECONDS")
        if self.publish_retry_first_seconds > self.publish_retry_max_seconds:
            raise ValueError(
                "MQ_PUBLISH_RETRY_FIRST_SECONDS: must not be above MQ_PUBLISH_RETRY_MAX_SECONDS"
            )
        if self.cloudevents != "off" and self.cloudevents_source is None:
            raise ValueError("MQ_CLOUDEVENTS_SOURCE: is needed unless MQ_CLOUDEVENTS is off")
        if self._database_is_postgres and self.database_pool_size < MIN_CONNECTIONS:
            raise ValueError(
                f"MQ_DATABASE_POOL_SIZE: the relay needs at least {MIN_CONNECTIONS} on Postgres"
            )
        return self

    @property
    def _database_is_postgres(self) -> bool:
        return self.database.get_backend_name() == "postgresql"

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler may give each transaction another session."""
        return "pgbouncer" in self.database.query

    @property
    def is_woken(self) -> bool:
        """Whether NOTIFY wakes an idle relay: configured, and possible with this database."""
        return self._database_is_postgres and not self.is_pooled and self.wakeup == "notify"

    @property
    def publish_timeout(self) -> timedelta:
        """`publish_timeout_seconds` as a timedelta."""
        return timedelta(seconds=self.publish_timeout_seconds)

    @property
    def cloudevents_writer(self) -> CloudEventsWriter | None:
        """Writes messages as CloudEvents; None if they are none."""
        if self.cloudevents == "off" or self.cloudevents_source is None:
            return None
        return CloudEventsWriter(
            self.cloudevents, self.cloudevents_source, self.cloudevents_prefix
        )

    @property
    def retry_policy(self) -> Exponential:
        """When the relay publishes unroutable events again: no queue has a copy of them."""
        return Exponential(
            first=timedelta(seconds=self.publish_retry_first_seconds),
            cap=timedelta(seconds=self.publish_retry_max_seconds),
            max_attempts=self.publish_max_attempts,
        )

    @property
    def refused_policy(self) -> Exponential:
        """
        When the relay publishes refused events again.

        The broker refuses an event if one of its queues does. The other queues have it, and get
        another copy with each attempt, so the pauses grow faster.
        """
        return replace(self.retry_policy, factor=4)

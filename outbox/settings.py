"""
Settings that both processes share, read from the environment and `.env`; all begin with MQ_.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict, SettingsError

from outbox import exchange_rules, setting_names
from outbox.encryption_settings import EncryptionSettings
from outbox.errors import ConfigurationError
from outbox.exchange_rules import Exchanges
from outbox.health_data import RecordType
from outbox.payload import Compression
from outbox.setting_types import EntityName, Items
from outbox.setting_variables import PREFIX
from outbox.setting_words import line
from outbox.url_checks import (
    check_broker,
    check_brokers,
    check_database,
    check_management,
    check_schema,
    is_local,
)


class SharedSettings(EncryptionSettings):
    """
    Addresses of the servers, names of exchanges, logs, probes and connections.

    URL schemes choose the adapters: `postgresql://` or `sqlite:///` for the database,
    `amqps://`, `amqp://`, `rediss://`, `redis://` or `sqlite:///` for the broker.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8-sig",
        extra="ignore",
        hide_input_in_errors=True,
        frozen=True,
    )

    main_exchange: EntityName = Field(
        default="health_data_exchange", description="Topic exchange that events are published to."
    )
    dlx_exchange: EntityName = Field(
        default="health_data_dlx",
        description="Direct exchange that queues dead-letter to.",
    )
    exchanges: Exchanges = Field(
        default=(),
        description="Further exchanges, each as `name:kind` or a JSON object: "
        "[Route events](../how-to/route-events.md).",
    )
    processing_queue: EntityName = Field(
        default="health_data_processing",
        description="Prefix of queue names: a consumer's queue is the prefix, a dot, and its "
        "name.",
    )
    allowed_headers: Items[str] = Field(
        default=(), description="Header names that events may carry, besides the allowed ones."
    )
    compression: Compression = Field(
        default="none",
        description="How producers compress bodies, where it makes them a tenth shorter or more; "
        "`zstd` needs the extra of that name. Handlers of a consumer are producers too.",
    )
    declare_topology: bool = Field(
        default=True,
        description="Declare exchanges and queues at start; if false, only check that they exist "
        "as they would be declared.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` is console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged."
    )
    log_tracebacks: bool = Field(
        default=False,
        description="Log exceptions with their tracebacks and texts, which may quote health data; "
        "refused with a database beyond loopback, unless MQ_ALLOW_INSECURE is set.",
    )
    redacted_loggers: Items[EntityName] = Field(
        default=(),
        description="Further loggers, with their children, whose records are logged without "
        "values, as in `fhir,myapp.raw`.",
    )
    enable_metrics: bool = Field(
        default=True, description="Serve /metrics, /livez and /readyz over HTTP."
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that the HTTP server listens on."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of the HTTP server. Unset: 8001 for a relay, 8002 for a consumer, or "
        "any free one if that is taken. 0: any free one.",
    )
    dead_letter_retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="How long dead letters are kept: a running process deletes older ones of its "
        "own, and audit_log has their number. Unset: until a person replays or drops them.",
    )
    dead_letter_body_retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="How long bodies of dead letters are kept: a running process deletes older "
        "ones, with keys and headers that may name a person, and keeps the other metadata. Below "
        "MQ_DEAD_LETTER_RETENTION_DAYS. Unset: as long as the dead letter.",
    )
    two_person: bool = Field(
        default=False,
        description="Commands open bodies of dead letters, replace one, erase persons or readmit "
        "them only after a second person has approved it with `approve`.",
    )
    record_types: Items[RecordType] = Field(
        default=(),
        max_length=500,
        description="Record types that metrics count each for itself, as in `BloodGlucoseRecord,"
        "StepsRecord`; any other is `other`. Unset: those of Android's Health Connect.",
    )
    drain_seconds: float = Field(
        default=25.0,
        gt=0,
        le=3600,
        description="Time to finish the work in flight after SIGTERM; keep it below the 30 "
        "seconds that Kubernetes grants.",
    )
    database_pool_size: int = Field(
        default=15,
        ge=2,
        le=1000,
        description="Most connections to the database per process: at least 5 for a relay on "
        "Postgres, and 5 more than MQ_CONCURRENCY for a consumer.",
    )
    heartbeat_seconds: int = Field(
        default=10,
        ge=1,
        le=600,
        description="AMQP heartbeat; from 3 seconds on, a dead peer is noticed within three of "
        "them.",
    )
    publish_method: Literal["batch", "gather"] = Field(
        default="batch",
        description="How to publish to RabbitMQ: `batch` writes many messages at once; `gather` "
        "is slower and uses only documented calls of the client library.",
    )
    delivery_method: Literal["frames", "callback"] = Field(
        default="frames",
        description="How to read deliveries of RabbitMQ: `frames` is fast and survives messages "
        "that cannot be read; `callback` uses only documented calls of the client library.",
    )
    redis_replicas: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Number of replicas of Redis that must have a message before its publish is "
        "confirmed; 0 is the primary alone. Set `min-replicas-to-write` of the server to it, too.",
    )
    reconnect_max_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="Longest pause between attempts to reconnect, in seconds.",
    )

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        check_database(self.database, allow_insecure=self.allow_insecure)
        check_schema(self.database, self.database_schema)
        for url in self.brokers:
            check_broker(url, allow_insecure=self.allow_insecure)
        if self.management is not None:
            check_management(self.management, allow_insecure=self.allow_insecure)
        if self.log_tracebacks and not (self.allow_insecure or is_local(self.database)):
            raise ValueError(
                "MQ_LOG_TRACEBACKS: needs a database on this host, because tracebacks may quote "
                "health data: unset it, or set MQ_ALLOW_INSECURE=true"
            )
        letters, bodies = self.dead_letter_retention_days, self.dead_letter_body_retention_days
        if letters is not None and bodies is not None and bodies >= letters:
            raise ValueError(
                "MQ_DEAD_LETTER_BODY_RETENTION_DAYS: must be below MQ_DEAD_LETTER_RETENTION_DAYS, "
                "which deletes bodies as well"
            )
        check_brokers(self.brokers)
        problems = exchange_rules.problems(
            self.exchanges, main_exchange=self.main_exchange, dlx_exchange=self.dlx_exchange
        )
        if found := next(problems, None):
            raise ValueError(f"MQ_EXCHANGES: {found}")
        return self

    @property
    def dead_letter_retention(self) -> timedelta | None:
        """`dead_letter_retention_days` as a timedelta; None if it is not set."""
        return _days(self.dead_letter_retention_days)

    @property
    def dead_letter_body_retention(self) -> timedelta | None:
        """`dead_letter_body_retention_days` as a timedelta; None if it is not set."""
        return _days(self.dead_letter_body_retention_days)

    @property
    def drain(self) -> timedelta:
        """`drain_seconds` as a timedelta."""
        return timedelta(seconds=self.drain_seconds)


def _days(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


Settings = TypeVar("Settings", bound=SharedSettings)


def load(kind: type[Settings], **overrides: Any) -> Settings:
    """
    Read settings of this *kind* from the environment.

    Raises ConfigurationError with a line for each bad setting and each variable with the prefix
    MQ_ that is no setting. A line names the variable and never its value.
    """
    names = checked_names(kind)
    problems = dict(names.problems)
    loaded = None
    try:
        loaded = kind(**overrides)
    except ValidationError as error:
        for problem in error.errors():
            name = f"{PREFIX}{problem['loc'][0]}".upper() if problem["loc"] else ""
            problems.setdefault(name, names.with_file(line(name, problem)))
    except (SettingsError, UnicodeDecodeError, OSError):
        if not problems:
            raise
    if loaded is None or problems:
        raise ConfigurationError("\n".join(problems.values()))
    return loaded


def checked_names(kind: type[SharedSettings]) -> setting_names.Findings:
    """Find the variables with the prefix MQ_ that are no settings."""
    file = kind.model_config.get("env_file")
    known = {f"{PREFIX}{name}".upper() for name in kind.model_fields}
    return setting_names.check(known, env_file=Path(file) if isinstance(file, str) else None)

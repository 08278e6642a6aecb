"""
Settings that both processes share, read from the environment and `.env`; all begin with MQ_.
"""

import json
import os
import sys
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from yarl import URL as BrokerUrl  # noqa: N811 - the URL class of aio-pika

from outbox.errors import ConfigurationError
from outbox.url_checks import check_broker, check_database

DEFAULT_DATABASE_URL = "sqlite:///outbox.db"
DEFAULT_BROKER_URL = "sqlite:///broker.db"

_ENTITY_NAME = r"^[A-Za-z0-9_.:-]+$"


def _items(value: Any) -> Any:
    """Return the items of a list that is written as JSON or separated by commas."""
    if not isinstance(value, str):
        return value
    if not value.strip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("must be a JSON list, or items separated by commas") from None


Item = TypeVar("Item")
Items = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_items)]


EntityName = Annotated[str, Field(min_length=1, max_length=200, pattern=_ENTITY_NAME)]


class SharedSettings(BaseSettings):
    """
    Addresses of the servers, names of exchanges, logs, probes and connections.

    URL schemes choose the adapters: `postgresql://` or `sqlite:///` for the database,
    `amqps://`, `amqp://` or `sqlite:///` for the broker.
    """

    model_config = SettingsConfigDict(
        env_prefix="MQ_", env_file=".env", extra="ignore", hide_input_in_errors=True, frozen=True
    )

    database_url: SecretStr = Field(
        default=SecretStr(DEFAULT_DATABASE_URL),
        description="The relay's database, which has the outbox; or the consumer's database, "
        "which has its effects.",
    )
    broker_url: SecretStr = Field(
        default=SecretStr(DEFAULT_BROKER_URL),
        description="The broker; several URLs of one cluster, separated by commas, are a failover "
        "list.",
    )
    allow_insecure: bool = Field(
        default=False,
        description="Allow plaintext, unverified TLS and guest credentials beyond loopback.",
    )
    main_exchange: EntityName = Field(
        default="health_data_exchange", description="Topic exchange that events are published to."
    )
    dlx_exchange: EntityName = Field(
        default="health_data_dlx",
        description="Direct exchange that queues dead-letter to.",
    )
    allowed_headers: Items[str] = Field(
        default=(), description="Header names that events may carry, besides the allowed ones."
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
    reconnect_max_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="Longest pause between attempts to reconnect, in seconds.",
    )

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        check_database(self.database, allow_insecure=self.allow_insecure)
        for url in self.brokers:
            check_broker(url, allow_insecure=self.allow_insecure)
        if len({url.scheme for url in self.brokers}) > 1:
            raise ValueError("MQ_BROKER_URL: all URLs of the list must have one scheme")
        return self

    @property
    def database(self) -> URL:
        """MQ_DATABASE_URL, parsed."""
        try:
            url = make_url(self.database_url.get_secret_value())
        except (ArgumentError, ValueError):
            # A ValueError quotes the text in the place of the port, which is often a password.
            raise ValueError("MQ_DATABASE_URL: is not a URL") from None
        # SQLAlchemy does not know this scheme of libpq.
        return url.set(drivername="postgresql") if url.drivername == "postgres" else url

    @property
    def brokers(self) -> list[BrokerUrl]:
        """The URLs in MQ_BROKER_URL, parsed."""
        try:
            urls = [
                BrokerUrl(part.strip())
                for part in self.broker_url.get_secret_value().split(",")
                if part.strip()
            ]
        except ValueError:
            raise ValueError("MQ_BROKER_URL: is not a URL") from None
        if not urls:
            raise ValueError("MQ_BROKER_URL: is empty")
        return urls

    @property
    def drain(self) -> timedelta:
        """`drain_seconds` as a timedelta."""
        return timedelta(seconds=self.drain_seconds)


Settings = TypeVar("Settings", bound=SharedSettings)


def load(kind: type[Settings], **overrides: Any) -> Settings:
    """
    Read settings of this *kind* from the environment.

    Raises ConfigurationError with a line for each bad setting, which names the variable and never
    its value.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        lines = {problem["loc"][:1]: _line(problem) for problem in error.errors()}
        raise ConfigurationError("\n".join(lines.values())) from None


def _line(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    return f"MQ_{str(error['loc'][0]).upper()}: {message}"


def console_wanted(log_format: str) -> bool:
    """Return whether logs are text for people rather than JSON."""
    return log_format == "console" or (
        log_format == "auto" and sys.stderr.isatty() and "CI" not in os.environ
    )

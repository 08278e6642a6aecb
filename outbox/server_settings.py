"""
Settings with the addresses of the servers, and their URLs, parsed.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy.engine import URL
from yarl import URL as BrokerUrl  # noqa: N811 - the URL class of aio-pika

from outbox import redis_urls
from outbox.schema_name import check_schema_name
from outbox.secret_files import SettingsWithSecretFiles
from outbox.setting_words import EMPTY, NOT_A_URL
from outbox.url_checks import broker_url, database_url, management_url

DEFAULT_DATABASE_URL = "sqlite:///outbox.db"
DEFAULT_BROKER_URL = "sqlite:///broker.db"


class ServerSettings(SettingsWithSecretFiles):
    """
    Where database and broker are, and what secures the connections to them.

    `SharedSettings` checks them, together with the settings that depend on them.
    """

    database_url: SecretStr = Field(
        default=SecretStr(DEFAULT_DATABASE_URL),
        description="The relay's database, which has the outbox; or the consumer's database, "
        "which has its effects.",
    )
    database_schema: Annotated[str, AfterValidator(check_schema_name)] | None = Field(
        default=None,
        description="Postgres: the schema with the tables, which `relay migrate` creates. Unset: "
        "the one in which `search_path` of the role finds them.",
    )
    broker_url: SecretStr = Field(
        default=SecretStr(DEFAULT_BROKER_URL),
        description="The broker; several URLs of one cluster, separated by commas, are a failover "
        "list. Redis: one server, or Sentinels or nodes as in `rediss://app:PASSWORD@a,b?sentinel=mq`"
        " or `rediss://app:PASSWORD@a,b?cluster=true`.",
    )
    management_url: SecretStr | None = Field(
        default=None,
        description="RabbitMQ's management API, as in `https://user:password@host:15671`; only "
        "read. Unset: policies and delivery limits are not checked, and missing and unwanted "
        "bindings are not noticed, nor shown by `relay status`.",
    )
    secrets_dir: Path | None = Field(
        default=None,
        description="Directory with files that have the names of settings, and their values. "
        "Unset: `/run/secrets`, if it exists.",
    )
    allow_insecure: bool = Field(
        default=False,
        description="Allow plaintext, unverified TLS and guest credentials beyond loopback.",
    )

    @property
    def database(self) -> URL:
        """MQ_DATABASE_URL, parsed."""
        return database_url(self.database_url.get_secret_value().strip())

    @property
    def brokers(self) -> list[BrokerUrl]:
        """The URLs in MQ_BROKER_URL, parsed."""
        parts = redis_urls.expanded(self.broker_url.get_secret_value())
        if not parts:
            raise ValueError(f"MQ_BROKER_URL: {EMPTY}")
        if any("://" not in part for part in parts[1:]):
            raise ValueError(
                "MQ_BROKER_URL: each URL of the list must begin with its scheme; write a comma "
                "in a user or password as %2C"
            )
        try:
            return [broker_url(part) for part in parts]
        except ValueError:
            raise ValueError(f"MQ_BROKER_URL: {NOT_A_URL}") from None

    @property
    def management(self) -> BrokerUrl | None:
        """MQ_MANAGEMENT_URL, parsed; None if it is not set."""
        url = self.management_url
        return None if url is None else management_url(url.get_secret_value())

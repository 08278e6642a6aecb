"""
Settings of encryption that relay, consumer and commands read; producers read the environment.
"""

from typing import Self

from pydantic import Field, SecretStr, model_validator
from sqlalchemy.engine import URL

from outbox.key_database_url import check_key_database, is_same_database, key_database_url
from outbox.server_settings import ServerSettings
from outbox.setting_words import EMPTY

KEYS = "MQ_ENCRYPTION_KEYS"
SUBJECT_KEYS = "MQ_SUBJECT_KEYS_URL"

_FORMS = ("file:", "env:", "python:")
_FORM = "must be file:///…, env:NAME, python:module:attribute or the URL of a key database"


class EncryptionSettings(ServerSettings):
    """Where keys come from, and whether plaintext is refused."""

    encryption_keys: SecretStr | None = Field(
        default=None,
        description="Source of the keys that encrypt events: `file:///run/secrets/keys.json`, "
        "`env:NAME`, `python:module:attribute`, or the URL of a key database. Unset: events are "
        "recorded in plaintext, and encrypted ones cannot be read. A relay needs none.",
    )
    subject_keys_url: SecretStr | None = Field(
        default=None,
        description="URL of the key database with a key for each person, another database than "
        "MQ_DATABASE_URL. Unset: MQ_ENCRYPTION_KEYS, if that is a key database.",
    )
    require_encryption: bool = Field(
        default=False,
        description="Refuse plaintext: a producer records none, a relay publishes none, and a "
        "consumer handles none; both dead-letter it as `plaintext_refused`.",
    )

    @model_validator(mode="after")
    def _check_encryption(self) -> Self:
        keys = self.keys
        if self.encryption_keys is not None and not keys:
            raise ValueError(f"{KEYS}: {EMPTY}")
        for setting, url in self.key_databases.items():
            check_key_database(url, setting=setting, allow_insecure=self.allow_insecure)
            if is_same_database(url, self.database):
                raise ValueError(
                    f"{setting}: must be another database than MQ_DATABASE_URL, whose backups "
                    "would bring destroyed keys back"
                )
        if keys and KEYS not in self.key_databases and not keys.startswith(_FORMS):
            raise ValueError(f"{KEYS}: {_FORM}")
        return self

    @property
    def keys(self) -> str | None:
        """MQ_ENCRYPTION_KEYS; None if it is not set."""
        return None if self.encryption_keys is None else _text(self.encryption_keys)

    @property
    def subject_keys(self) -> str | None:
        """MQ_SUBJECT_KEYS_URL; None if it is not set."""
        return None if self.subject_keys_url is None else _text(self.subject_keys_url)

    @property
    def key_databases(self) -> dict[str, URL]:
        """The URLs of key databases, parsed, by their settings."""
        given = {KEYS: self.keys, SUBJECT_KEYS: self.subject_keys}
        return {
            setting: key_database_url(text, setting=setting)
            for setting, text in given.items()
            if text is not None and (setting == SUBJECT_KEYS or _is_database(text))
        }


def _text(secret: SecretStr) -> str:
    return secret.get_secret_value().strip()


def _is_database(text: str) -> bool:
    return text.startswith(("postgres", "sqlite"))

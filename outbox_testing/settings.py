"""
Settings of both processes for a test: their defaults, without the environment and `.env`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from consumer.settings import ConsumerSettings
from outbox.errors import ConfigurationError
from outbox.setting_words import line
from outbox.settings import SharedSettings
from relay.settings import RelaySettings

Kind = TypeVar("Kind", bound=SharedSettings)

_OF_TESTS: Mapping[str, Any] = {
    # A message without a handler is a mistake of the test: no other version will handle it.
    "unsupported_wait_seconds": 0,
    # A lock is held by the test itself, which waits for the handler.
    "lock_timeout_seconds": 2,
}


class _GivenOnly(BaseSettings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature of pydantic-settings
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class GivenRelaySettings(_GivenOnly, RelaySettings):
    """The settings of a relay, by argument only."""


class GivenConsumerSettings(_GivenOnly, ConsumerSettings):
    """The settings of a consumer, by argument only."""


def check_names(given: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a name in *given* that is no setting of either process."""
    known = RelaySettings.model_fields.keys() | ConsumerSettings.model_fields.keys()
    if unknown := sorted(given.keys() - known):
        raise ConfigurationError(f"settings: {unknown[0]} is no setting of relay or consumer")


def make(kind: type[Kind], given: Mapping[str, Any], **own: Any) -> Kind:
    """
    The settings of *kind*, with those *given* by the test and the runner's *own*.

    Raises ConfigurationError with a line for each bad setting.
    """
    try:
        return kind(**{**_OF_TESTS, **given, **own})
    except ValidationError as error:
        problems = [
            line(f"MQ_{each['loc'][0]}".upper() if each["loc"] else "", each)
            for each in error.errors()
        ]
        raise ConfigurationError("\n".join(problems)) from None

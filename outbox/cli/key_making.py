"""
The command `relay keys init`: the first key, in a new file or in a key database.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from outbox.cli.console import console
from outbox.cli.key_settings import KeySettings
from outbox.encryption import key_file_writer
from outbox.encryption.key_ring import new_ring
from outbox.encryption.managed_keys import CLOCKS_DIFFER
from outbox.encryption.sources import SETTING, file_path, is_database
from outbox.errors import ConfigurationError


def init(given: str | None, open_settings: Callable[[], KeySettings], *, subjects: bool) -> None:
    """Make the keys of the source *given*, or else of the settings; raises ConfigurationError."""
    if subjects:
        raise ConfigurationError("--subjects: needs MQ_SUBJECT_KEYS_URL")
    source = given or open_settings().keys
    if source is None:
        raise ConfigurationError("FILE: is needed, or MQ_ENCRYPTION_KEYS")
    if is_database(source):
        _check_password(given)
        raise ConfigurationError("URL")
    path = _file(source)
    ring = new_ring(datetime.now(UTC) - CLOCKS_DIFFER)
    key_file_writer.create(path, ring, source=SETTING if given is None else "FILE")
    console.print(f"{SETTING}={path.absolute().as_uri()}")


def _file(source: str) -> Path:
    if source.startswith("file:"):
        return file_path(source)
    if source.startswith(("env:", "python:")):
        raise ConfigurationError(f"{SETTING}: keys can be made in a file or a key database")
    return Path(source)


def _check_password(given: str | None) -> None:
    try:
        password = None if given is None else make_url(given).password
    except ArgumentError:
        raise ConfigurationError("URL: is no URL of a database") from None
    if password:
        raise ConfigurationError(
            f"URL: has a password, which other users of this host could see: set {SETTING}, and"
            " leave the URL out"
        )

"""
The command `relay keys init`: the first key, in a new file or in a key database.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.cli.console import console, once
from outbox.cli.key_settings import KeySettings
from outbox.encryption import key_file_writer
from outbox.encryption.key_ring import EncryptionKey, KeyRing, new_ring
from outbox.encryption.key_tables import encryption_keys, key_store
from outbox.encryption.managed_keys import CLOCKS_DIFFER
from outbox.encryption.sources import SETTING, SUBJECTS_SETTING, file_path, is_database
from outbox.errors import ConfigurationError
from outbox.key_store.creation import create
from outbox.key_store.engine import key_engine, key_errors_translated, opened
from outbox.runtime import process

_KEY = encryption_keys.c


def init(given: str | None, open_settings: Callable[[], KeySettings], *, subjects: bool) -> None:
    """Make the keys of the source *given*, or else of the settings; raises ConfigurationError."""
    if subjects:
        if given is not None:
            raise ConfigurationError(f"--subjects: takes the database from {SUBJECTS_SETTING}")
        settings = open_settings()
        if settings.subjects is None:
            raise ConfigurationError(f"--subjects: needs {SUBJECTS_SETTING}")
        _database(settings.subjects, settings, setting=SUBJECTS_SETTING, ring=None)
        return
    source = given or open_settings().keys
    if source is None:
        raise ConfigurationError(f"FILE: is needed, or {SETTING}")
    ring = new_ring(datetime.now(UTC) - CLOCKS_DIFFER)
    if is_database(source):
        _check_password(given)
        setting = SETTING if given is None else "URL"
        _database(source, open_settings(), setting=setting, ring=ring)
        return
    path = _file(source)
    key_file_writer.create(path, ring, source=SETTING if given is None else "FILE")
    console.print(f"{SETTING}={path.absolute().as_uri()}")


def _database(url: str, settings: KeySettings, *, setting: str, ring: KeyRing | None) -> None:
    """Create the tables of a key database; a source of keys gets the keys of *ring*."""

    async def work() -> bool:
        engine = key_engine(
            url,
            setting=setting,
            allow_insecure=settings.allow_insecure,
            application_name=process.name("relay keys"),
            create=True,
        )
        async with opened(engine):
            digest_key = None if ring is None else ring.digest_key()
            made = await create(engine, setting=setting, digest_key=digest_key)
            # A command that was killed before may have made the tables, and no key.
            return (ring is not None and await _add_first(engine, setting, ring)) or made

    if not once(work):
        raise ConfigurationError(f"{setting}: the database has the tables of keys already")
    console.print(f"{setting}: the key database is ready")


async def _add_first(engine: AsyncEngine, setting: str, ring: KeyRing) -> bool:
    """Add the keys of *ring* to a source that has none, and return whether it had none."""
    with key_errors_translated(setting):
        async with engine.begin() as connection:
            is_source = await connection.scalar(sa.select(key_store.c.digest_key.is_not(None)))
            if not is_source or await connection.scalar(sa.select(sa.func.count(_KEY.id))):
                return False
            await connection.execute(sa.insert(encryption_keys), [_row(key) for key in ring.keys])
            return True


def _row(key: EncryptionKey) -> dict[str, object]:
    return {"id": key.id, "key": key.key, "active_from": key.active_from}


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

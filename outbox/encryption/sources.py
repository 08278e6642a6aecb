"""
MQ_ENCRYPTION_KEYS: from its text to a source of keys.

    file:///run/secrets/keys.json    a JSON document in a file, see `outbox.encryption.key_ring`
    env:NAME                         the same document in an environment variable
    python:module:attribute          any KeyProvider, or a function without arguments that makes it
    postgresql://…, sqlite:///…      a key database, see `outbox.encryption.key_database`
"""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from outbox.encryption import key_ring
from outbox.encryption.guarded_keys import guarded
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_database import KeyDatabase
from outbox.encryption.key_file import KeyFile
from outbox.encryption.keys import KeyProvider, KeysUnavailable
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.encryption.subjects import SubjectKeys
from outbox.errors import ConfigurationError, OutboxError

SETTING = "MQ_ENCRYPTION_KEYS"
SUBJECTS_SETTING = "MQ_SUBJECT_KEYS_URL"
_METHODS = ("digest_key", "wrap", "unwrap")
_FORMS = "must be file:///…, env:NAME, python:module:attribute or the URL of a key database"


def is_database(text: str) -> bool:
    """Whether the source *text* is a key database."""
    return text.startswith(("postgresql:", "postgresql+", "postgres:", "sqlite:", "sqlite+"))


def provider(text: str, *, environment: Mapping[str, str] = os.environ) -> KeyProvider:
    """
    Return the source of keys that *text*, the value of MQ_ENCRYPTION_KEYS, names.

    Raises ConfigurationError, and KeysUnavailable for a key database that cannot be reached.
    """
    scheme, _, rest = text.partition(":")
    match scheme:
        case "file":
            return KeyFile(file_path(text), source=SETTING)
        case "env":
            if rest not in environment:
                raise ConfigurationError(f"{SETTING}: names a variable that is not set")
            return key_ring.parse(environment[rest], source=f"{SETTING}: the variable")
        case "python":
            return guarded(_imported(rest), setting=SETTING)
        case _ if is_database(text):
            connection = KeyConnection(text, setting=SETTING, environment=environment)
            return KeyDatabase(connection, setting=SETTING)
        case _:
            raise ConfigurationError(f"{SETTING}: {_FORMS}")


def both(
    keys: KeyProvider | str,
    subjects: SubjectKeys | str | None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> tuple[KeyProvider, SubjectKeys | None]:
    """
    Return the source *keys* and the keys of subjects, each of which may be given as its text.

    Without *subjects* a key database has both. Raises as `provider`.
    """
    provided = (
        provider(keys, environment=environment)
        if isinstance(keys, str)
        else guarded(keys, setting="use_encryption")
    )
    found = subject_keys_url(keys, subjects)
    if found is None:
        return provided, None if isinstance(subjects, str) else subjects
    url, setting = found
    connection = KeyConnection(url, setting=setting, environment=environment)
    return provided, SubjectKeyDatabase(connection, provided, setting=setting)


def subject_keys_url(
    keys: KeyProvider | str, subjects: SubjectKeys | str | None
) -> tuple[str, str] | None:
    """
    Return the URL of the database with the keys of subjects, and the setting that has it.

    None if they are in no key database. Raises ConfigurationError.
    """
    if subjects is None and isinstance(keys, str) and is_database(keys):
        return keys, SETTING
    if not isinstance(subjects, str):
        return None
    if not is_database(subjects):
        raise ConfigurationError(f"{SUBJECTS_SETTING}: must be the URL of a key database")
    return subjects, SUBJECTS_SETTING


def file_path(text: str) -> Path:
    """Return the path in the source *text*, file:///…; raises ConfigurationError."""
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets without an address between them
        parts = urlsplit("")
    if parts.netloc not in {"", "localhost"} or not parts.path:
        raise ConfigurationError(f"{SETTING}: file: needs a path, as in file:///run/keys.json")
    return Path(unquote(parts.path))


def _imported(name: str) -> KeyProvider:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        reason = type(error).__name__ + _missing(error, module)
        raise ConfigurationError(f"{SETTING}: python: cannot be imported ({reason})") from None
    if not _is_provider(found):
        found = _called(found) if callable(found) else None
    if not _is_provider(found):
        raise ConfigurationError(f"{SETTING}: python: has no {', '.join(_METHODS)}")
    provider: KeyProvider = found
    return provider


def _called(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except OutboxError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's code; its text may quote anything
        raise KeysUnavailable(
            f"{SETTING}: python: the source cannot be made ({type(error).__name__})"
        ) from None


def _missing(error: Exception, module: str) -> str:
    """Name the package that *module* imports in vain; no part of the setting itself."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return "" if not name or f"{module}.".startswith(f"{name}.") else f": {name}"


def _is_provider(value: object) -> bool:
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in _METHODS
    )

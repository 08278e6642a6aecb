"""
Encryption of the events that this process records: off, or by the keys that it is given.

Until `use_encryption` is called, the environment decides when the first event is recorded:
MQ_ENCRYPTION_KEYS, MQ_SUBJECT_KEYS_URL and MQ_REQUIRE_ENCRYPTION, or files with these names in
MQ_SECRETS_DIR. Without the first one this module imports nothing of `outbox.encryption`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outbox import media_type
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.event import Event
from outbox.extras import packages_of
from outbox.mounted_secrets import mounted
from outbox.producer_compression import compressed, compression_of
from outbox.validation import check_key
from outbox.wire.encrypted import ENCODING

if TYPE_CHECKING:
    from outbox.encryption.digests import Domain
    from outbox.encryption.encryptor import Encryptor
    from outbox.encryption.keys import KeyProvider
    from outbox.encryption.subjects import SubjectKeys

KEYS = "MQ_ENCRYPTION_KEYS"
SUBJECTS = "MQ_SUBJECT_KEYS_URL"
REQUIRED = "MQ_REQUIRE_ENCRYPTION"
INSECURE = "MQ_ALLOW_INSECURE"
_NAMES = {KEYS, SUBJECTS, REQUIRED, INSECURE}
_TRUE = {"1", "true", "yes", "on", "t", "y"}
_FALSE = {"0", "false", "no", "off", "f", "n", ""}


@dataclass(frozen=True, slots=True)
class Choice:
    """
    The *encryptor* of this process, or None for plaintext, which *required* refuses.

    *by_call* says whether `use_encryption` was called; *keys* and *subjects* are those in use.
    *subjects_url* is that of their key database, and the setting that has it.
    """

    encryptor: "Encryptor | None"
    required: bool
    by_call: bool = False
    keys: "KeyProvider | None" = None
    subjects: "SubjectKeys | None" = None
    subjects_url: tuple[str, str] | None = None

    def row(self, event: Event, row: dict[str, Any]) -> dict[str, Any]:
        if self.encryptor is not None:
            named = event.subject is not None
            subject = event.subject if named else self.subject_of(event.payload)
            return self.encryptor.encrypted(
                row, subject=subject, compression=compression_of(event)
            )
        if self.required:
            raise InvalidEvent("payload", f"must be encrypted: {REQUIRED} is set, {KEYS} is not")
        if event.subject is not None:
            raise InvalidEvent("subject", f"needs {KEYS}")
        return compressed(row, compression_of(event))

    def subject_of(self, payload: object) -> str | None:
        """The person whom the model *payload* names, if persons have keys here."""
        name = getattr(type(payload), "event_subject", None)
        if self.subjects is None or not isinstance(name, str):
            return None
        subject: str = getattr(payload, name, "")
        check_key(f"payload.{name}", subject)
        return subject

    def close(self) -> None:
        """Close the connections to key databases; they are opened again if they are needed."""
        for each in (self.keys, self.subjects):
            if callable(close := getattr(each, "close", None)):
                close()


_choice: Choice | None = None


def use_encryption(
    keys: "KeyProvider | str | None",
    *,
    subjects: "SubjectKeys | str | None" = None,
    required: bool = False,
) -> None:
    """
    Encrypt the events that this process records, from now on.

    Args:
        keys: A source, or its text as in MQ_ENCRYPTION_KEYS. None: record plaintext.
        subjects: The keys of persons, or the URL of a key database, as in MQ_SUBJECT_KEYS_URL;
            default is *keys* if that is a key database.
        required: Refuse to record plaintext, as MQ_REQUIRE_ENCRYPTION does.

    Call it once at start; the environment does not count then. In the process of a consumer these
    keys decrypt messages as well. Raises ConfigurationError, also without the extra `encryption`,
    and KeysUnavailable if the source cannot be reached.

    """
    use(_made(keys, subjects, required=required, by_call=True))


def use_settings(
    keys: str | None, *, subjects: str | None, required: bool, allow_insecure: bool
) -> Choice:
    """
    Encrypt as the settings of a process say, which include files, unless `use_encryption` says.

    Returns what counts for messages: the settings where `use_encryption` gives no keys. Raises as
    `use_encryption`.
    """
    is_called = _choice is not None and _choice.by_call
    if _choice is not None and is_called and _choice.keys is not None:
        return _choice
    environment = {**os.environ, INSECURE: str(allow_insecure).lower()}
    made = _made(keys, subjects, required=required, environment=environment)
    if not is_called:
        use(made)
    return made


def use_environment(environment: Mapping[str, str] = os.environ) -> None:
    """
    Let the environment decide, as it does until `use_encryption` is called; raises as that.

    Files in MQ_SECRETS_DIR count like variables of their names, which take precedence.
    """
    environment = {**mounted(_NAMES, environment), **environment}
    use(
        _made(
            environment.get(KEYS) or None,
            environment.get(SUBJECTS) or None,
            required=_flag(environment.get(REQUIRED, "")),
            environment=environment,
        )
    )


def use(choice: Choice | None) -> None:
    """Encrypt as *choice* says; None: as if nothing was chosen yet."""
    global _choice  # noqa: PLW0603 - one for the process, like the allowed headers
    _choice = choice


def chosen() -> Choice | None:
    """What was chosen; None before the first event."""
    return _choice


def recorded(event: Event, row: dict[str, Any]) -> dict[str, Any]:
    """
    Return the *row* of *event* as it is recorded: compressed and encrypted, if this process does.

    Raises InvalidEvent, ConfigurationError and KeysUnavailable.
    """
    return _in_use().row(event, row)


def subject_of(payload: object) -> str | None:
    """
    Return the person whom the model *payload* names, if persons have keys in this process.

    For a payload that is encoded before its event is made. Raises as `recorded`.
    """
    return _in_use().subject_of(payload)


def _in_use() -> Choice:
    if _choice is None:
        use_environment()
    assert _choice is not None  # noqa: S101 - it was chosen just now
    return _choice


def digest_of(domain: "Domain", value: str) -> str | None:
    """
    Return what stands for *value* in events that this process encrypts; None if in clear.

    Raises ConfigurationError and KeysUnavailable.
    """
    encryptor = _in_use().encryptor
    return None if encryptor is None else encryptor.digest(domain, value)


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """
    Return *row* with the body, the headers and the correlation id of its event.

    Keys that may name a person stay digests. A body that this process cannot decrypt stays as it
    is, as one of bytes.
    """
    if row["content_encoding"] != ENCODING:
        return row
    choice = _in_use()
    if choice.keys is None or choice.encryptor is None:
        return {**row, "content_type": media_type.UNKNOWN}
    from outbox.encryption.row_reader import read  # noqa: PLC0415 - cryptography is an extra

    return read(row, choice.keys, choice.encryptor.subject_ciphers)


def _made(
    keys: "KeyProvider | str | None",
    subjects: "SubjectKeys | str | None",
    *,
    required: bool,
    by_call: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Choice:
    if keys is None:
        return Choice(None, required, by_call)
    with packages_of(f"{KEYS}: encryption", extra="encryption"):
        from outbox.encryption import sources  # noqa: PLC0415 - cryptography is an extra
        from outbox.encryption.encryptor import Encryptor  # noqa: PLC0415
    provider, found = sources.both(keys, subjects, environment=environment)
    url = sources.subject_keys_url(keys, subjects)
    return Choice(Encryptor(provider, subjects=found), required, by_call, provider, found, url)


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word not in _FALSE:
        raise ConfigurationError(f"{REQUIRED}: must be true or false")
    return False

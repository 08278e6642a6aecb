"""
A new body for a dead letter: read from a file, and checked before any row is changed.
"""

from pathlib import Path

from outbox import json_text, media_type
from outbox.dead_letters.selection import Selection
from outbox.errors import ConfigurationError
from outbox.payload import MAX_BODY_BYTES


def read(file: Path, selection: Selection) -> bytes:
    """
    Return the body in *file*, for the one dead letter that *selection* names.

    Raises ConfigurationError without exactly one id, or if the file is unreadable or too large.
    """
    if len(set(selection.ids)) != 1:
        raise ConfigurationError("--body: needs exactly one --id")
    try:
        with file.open("rb") as opened:
            body = opened.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"--body: cannot be read ({type(error).__name__})") from None
    if len(body) > MAX_BODY_BYTES:
        raise ConfigurationError(f"--body: is larger than {MAX_BODY_BYTES} bytes")
    return body


def check(body: bytes, content_type: str | None) -> None:
    """Raise ConfigurationError if *content_type* is JSON and consumers could not read *body*."""
    kind = content_type or media_type.UNKNOWN
    if media_type.may_be_json(kind) and media_type.UNKNOWN not in kind.lower():
        try:
            json_text.read(body)
        except ValueError:
            raise ConfigurationError(
                "--body: is not JSON in UTF-8 that consumers read, unlike the dead letter's"
                " content type"
            ) from None

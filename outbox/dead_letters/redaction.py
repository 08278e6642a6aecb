"""
Which parts of a dead letter are shown: metadata always, body and keys only on request.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from outbox.dead_letters.expired_body import is_expired
from outbox.errors import UnreadableMessage
from outbox.validation import is_allowed_header
from outbox.wire.compression import decompress
from outbox.wire.encrypted import is_encrypted
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER

_METADATA = (
    "id",
    "source",
    "queue",
    "reason",
    "error_class",
    "error_place",
    "attempts",
    "type",
    "message_id",
    "exchange",
    "routing_key",
    "correlation_id",
    "reply_to",
    "priority",
    "content_type",
    "content_encoding",
    "size_bytes",
    "occurred_at",
    "first_at",
    "last_at",
    "body_expired_at",
)


def metadata(letter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that every user of the command may see, as JSON values."""
    shown = {name: _json_value(letter[name]) for name in _METADATA}
    return {**shown, "headers": _headers(letter["headers"])}


def keys(letter: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the keys, which may identify a person, as the body may."""
    return {name: _json_value(letter[name]) for name in ("idempotency_key", "ordering_key")}


def private(letter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that were decrypted with the body."""
    found: dict[str, Any] = letter.get("private") or {}
    return found


def body(letter: Mapping[str, Any]) -> dict[str, str | None]:
    """
    Return the stored body: its text if that is JSON, else base64; base64 if encrypted.

    None in place of one that has expired.
    """
    if is_expired(letter):
        return {"body": None}
    text = None if is_encrypted(letter.get("content_encoding")) else json_text(letter["body"])
    if text is None:
        return {"body_base64": base64.b64encode(letter["body"]).decode()}
    return {"body": text}


def readable_body(letter: Mapping[str, Any]) -> str:
    """
    Return the body for people: decompressed if possible; text if it is JSON, else base64.

    Of an encrypted one, only by which key it is encrypted; of an expired one, since when.
    """
    if is_expired(letter):
        return expired_at(letter)
    if is_encrypted(letter.get("content_encoding")):
        return encrypted_with(letter["body"])
    try:
        plain = decompress(letter["body"], letter["content_encoding"])
    except UnreadableMessage:
        plain = letter["body"]
    return json_text(plain) or base64.b64encode(plain).decode()


def expired_at(letter: Mapping[str, Any]) -> str:
    """Return since when *letter* has no body."""
    when = letter["body_expired_at"].astimezone(UTC)
    return f"body expired at {when.isoformat(timespec='minutes')}"


def encrypted_with(body: bytes) -> str:
    """Return by which key *body* is encrypted, as far as its first bytes say it."""
    if any(body[2:18]):
        return "encrypted with the key of a person"
    key_id = body[19 : 19 + (body[18] if len(body) > 18 else 0)]  # noqa: PLR2004 - offsets
    return f"encrypted with key {key_id.decode('ascii', 'replace')}"


def json_text(data: bytes) -> str | None:
    """Return the text of *data* if it is JSON in UTF-8, else None."""
    try:
        text = data.decode()
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return text


def _refuse(_constant: str) -> Any:
    raise ValueError("NaN and infinity are not JSON")


def printable(text: str) -> str:
    """Return *text* with escaped control characters, which could steer a terminal."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else f"\\u{ord(sign):04x}" for sign in text
    )


def _headers(headers: Any) -> dict[str, Any]:
    # A row that was written by SQL may contain any JSON.
    found = headers if isinstance(headers, dict) else {}
    return {
        name: value
        for name, value in found.items()
        if is_allowed_header(name)
        or (name.startswith("x-outbox-") and name != IDEMPOTENCY_KEY_HEADER)
    }


def _json_value(value: Any) -> Any:
    # SQLite stores blobs in columns of text too.
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else value

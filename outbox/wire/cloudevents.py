"""
Reading CloudEvents 1.0: from their attributes to the properties and headers of our messages.

    attribute              becomes
    id                     message_id
    source with id         x-outbox-idempotency-key: only the pair is unique
    type                   type
    time                   x-outbox-occurred-at
    datacontenttype        content_type
    data, data_base64      body
    correlationid          correlation_id, if the message has none
    source, subject, dataschema, and extensions such as traceparent: headers of these names

In binary mode each attribute is a header with a prefix, in structured mode the body is a JSON
object of them. Attributes count more than AMQP properties: some client libraries make a new
`message_id` for each publish. Messages of our own relay have our headers too, and those count.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from outbox import json_text, media_type
from outbox.errors import UnreadableMessage
from outbox.payload import MAX_BODY_BYTES
from outbox.validation import is_key
from outbox.wire.codec import WireMessage
from outbox.wire.compression import decompress
from outbox.wire.headers import (
    IDEMPOTENCY_KEY_HEADER,
    OCCURRED_AT_HEADER,
    VERSION_HEADER,
    in_utc_unless_zoned,
    iso_text,
    possible_time,
)

INVALID = "cloudevent_invalid"
SPECVERSION = "1.0"
STRUCTURED = "application/cloudevents+json"
PREFIXES = ("cloudEvents_", "cloudEvents:", "ce-", "ce_")
"""Of the AMQP binding, of older versions of it, of RabbitMQ and HTTP, and of Kafka."""

REQUIRED = ("specversion", "id", "source", "type")
CORE = frozenset({*REQUIRED, "time", "datacontenttype", "data", "data_base64", "correlationid"})

MARKS = frozenset(prefix + name for prefix in PREFIXES for name in ("specversion", "id", "type"))
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")
_MAX_STRUCTURED_BYTES = 8 * MAX_BODY_BYTES
"""A body as text in JSON, with every character escaped, is six times as large."""


def is_cloudevent(message: WireMessage) -> bool:
    """Whether *message* has attributes of a CloudEvent, however incomplete."""
    return not MARKS.isdisjoint(message.headers) or is_structured(message.content_type)


def read(message: WireMessage) -> WireMessage:
    """
    The event of the CloudEvent *message*, as other messages have it.

    Raises UnreadableMessage with the code `cloudevent_invalid`, whose detail names an attribute,
    or with a code of `outbox.wire.compression`.
    """
    headers, attributes = _divided(message.headers)
    if is_structured(message.content_type):
        attributes = _members(message)
        data, content_type = _data(attributes)
        message = replace(message, body=data, content_type=content_type, content_encoding=None)
    if VERSION_HEADER in headers:
        return replace(message, headers=headers)
    if not message.content_type and json_text.is_json(message.body):
        # As the SDK for Python reads what it has written.
        message = replace(message, content_type=media_type.JSON)
    return _with_attributes(message, headers, attributes)


@lru_cache(maxsize=1024)
def is_structured(content_type: str | None) -> bool:
    return content_type is not None and media_type.essence(content_type).startswith(
        "application/cloudevents"
    )


def _divided(headers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Headers that are no attributes, and attributes by their names."""
    others: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for header, value in headers.items():
        prefix = next((each for each in PREFIXES if header.startswith(each)), None)
        if prefix is None:
            others[header] = value
        elif _ATTRIBUTE.fullmatch(name := header.removeprefix(prefix).lower()):
            attributes.setdefault(name, value)
    return others, attributes


def _with_attributes(
    message: WireMessage, headers: dict[str, Any], attributes: Mapping[str, Any]
) -> WireMessage:
    for name in REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise UnreadableMessage(INVALID, name)
    if attributes["specversion"] != SPECVERSION:
        raise UnreadableMessage(INVALID, "specversion")
    ours = {IDEMPOTENCY_KEY_HEADER: _key(attributes["source"], attributes["id"])}
    if (time := _time(attributes.get("time"))) is not None:
        ours[OCCURRED_AT_HEADER] = iso_text(time)
    further = {
        name: value
        for name, value in attributes.items()
        if (name == "source" or name not in CORE) and isinstance(value, str | int | bool)
    }
    correlation_id = attributes.get("correlationid")
    return replace(
        message,
        message_id=attributes["id"],
        type=attributes["type"],
        correlation_id=message.correlation_id
        or (correlation_id if isinstance(correlation_id, str) else None),
        headers={**ours, **further, **headers},
    )


def _key(source: str, identity: str) -> str:
    """One key for each pair; a digest if the pair is no key, or could be read in two ways."""
    key = f"{source}|{identity}"
    if "|" not in source and is_key(key):
        return key
    pair = f"{len(source)} {source}{identity}".encode(errors="surrogatepass")
    return f"cloudevent:{hashlib.sha256(pair).hexdigest()}"


def _time(value: Any) -> datetime | None:
    """A time as text, as milliseconds since 1970, or decoded already; None if it is no time."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.upper())
        elif type(value) is int:
            value = datetime.fromtimestamp(value / 1000, UTC)
        return possible_time(in_utc_unless_zoned(value)) if isinstance(value, datetime) else None
    except (ValueError, OverflowError, OSError):
        return None


def _members(message: WireMessage) -> dict[str, Any]:
    """The members of the object in the body, with `data` as its JSON text."""
    if media_type.essence(message.content_type or "") != STRUCTURED:
        raise UnreadableMessage(INVALID, "format")
    body = message.body
    if message.content_encoding:
        body = decompress(body, message.content_encoding)
    if len(body) > _MAX_STRUCTURED_BYTES:
        raise UnreadableMessage(INVALID, "data")
    try:
        return _object(body)
    except ValueError:
        raise UnreadableMessage(INVALID, "body") from None


def _object(body: bytes) -> dict[str, Any]:
    """Raises ValueError if *body* is no JSON object."""
    members = json_text.read(body)
    if not isinstance(members, dict):
        raise ValueError("no object")  # noqa: TRY004 - of the text, not of an argument
    if "data" in members:
        members["data"] = json_text.member(body, "data")
    return {name: value for name, value in members.items() if _is_member(name)}


def _is_member(name: str) -> bool:
    return name == "data_base64" or _ATTRIBUTE.fullmatch(name) is not None


def _data(members: Mapping[str, Any]) -> tuple[bytes, str | None]:
    """The data of a CloudEvent in structured mode, and its content type."""
    content_type = members.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise UnreadableMessage(INVALID, "datacontenttype")
    if "data_base64" in members:
        return _decoded(members), content_type
    is_json = content_type is None or media_type.names_json(content_type)
    if "data" not in members:
        return (b"null", content_type or media_type.JSON) if is_json else (b"", content_type)
    text: bytes = members["data"]
    if not is_json and text.startswith(b'"'):
        text = json_text.read(text).encode()
    return text, content_type or media_type.JSON


def _decoded(members: Mapping[str, Any]) -> bytes:
    if "data" in members or not isinstance(members["data_base64"], str):
        raise UnreadableMessage(INVALID, "data_base64")
    try:
        return base64.b64decode(members["data_base64"], validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableMessage(INVALID, "data_base64") from None

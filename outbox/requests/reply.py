"""
The reply to a request, as its caller gets it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from outbox import json_text, media_type, producer_encryption
from outbox.errors import UnreadableMessage
from outbox.event import Event
from outbox.requests.wire import ANSWERED
from outbox.wire.encrypted import KEY_UNKNOWN
from outbox.wire.row_codec import to_row

if TYPE_CHECKING:
    from pydantic import BaseModel

Payload_co = TypeVar("Payload_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Reply(Generic[Payload_co]):
    """
    The reply to a request.

    Args:
        payload: As a model, if one was asked for; else a JSON value, or bytes if it is no JSON.
        answered_at: When the reply was stored, by the clock of the caller's database.
        is_late: It came after the deadline.

    """

    correlation_id: str = field(repr=False)
    payload: Payload_co = field(repr=False)
    content_type: str
    answered_at: datetime
    is_late: bool = False


def stored_columns(request_id: UUID, body: bytes, content_type: str) -> dict[str, Any]:
    """
    The columns of `replies` that hold *body*, encrypted if this process encrypts.

    An encrypted one is bound to the id of the request. Raises InvalidEvent, ConfigurationError and
    KeysUnavailable, as `outbox.add` does.
    """
    event = Event(ANSWERED, body, id=request_id, content_type=content_type, compression="none")
    row = producer_encryption.recorded(event, to_row(event))
    return {name: row[name] for name in ("body", "content_type", "content_encoding")}


def body_of(row: Mapping[str, Any]) -> bytes:
    """
    The body in *row* of `replies`, decrypted; a source of keys may be asked for a key.

    Raises UnreadableMessage with the code `key_unknown` if this process cannot decrypt it,
    ConfigurationError and KeysUnavailable.
    """
    body = bytes(row["body"])
    if row["content_encoding"] is None:
        return body
    event = Event(ANSWERED, b"", id=row["request_id"], content_type=row["content_type"])
    stored = {**to_row(event), "body": body, "content_encoding": row["content_encoding"]}
    found = producer_encryption.readable(stored)
    if found["content_encoding"] is not None:
        raise UnreadableMessage(KEY_UNKNOWN, "MQ_ENCRYPTION_KEYS")
    return bytes(found["body"])


def payload_of(body: bytes, content_type: str, model: "type[BaseModel] | None") -> Any:
    """
    The payload in *body*: a *model*, a JSON value, or bytes.

    Raises UnreadableMessage with the code `malformed` or `schema_unsupported`; its detail names
    fields and never their values.
    """
    if model is None and not media_type.is_json(content_type):
        return body
    try:
        value = json_text.read(body)
    except ValueError:
        # The errors of the decoder hold the body.
        raise UnreadableMessage("malformed", "body") from None
    if model is None:
        return value
    # Pydantic takes long to import, and a caller with a model has imported it.
    from pydantic import ValidationError  # noqa: PLC0415

    from outbox import model_json  # noqa: PLC0415

    try:
        return model_json.read(model, body)
    except ValidationError as error:
        detail = model_json.declared_fields(model, error)
        raise UnreadableMessage("schema_unsupported", detail) from None


def code_of(payload: Any) -> str:
    """The reason code in the *payload* of an error reply; `unknown` if it has none."""
    code = payload.get("code") if isinstance(payload, Mapping) else None
    return code if isinstance(code, str) and code else "unknown"

"""
A delivered event as its handler sees it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from outbox.errors import InvalidEvent, UnreadableMessage
from outbox.payload import JSON_CONTENT_TYPE
from outbox.wire.envelope import Envelope

Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True)
class Message(Generic[Payload]):
    """
    An event with its payload as the registered model, as a JSON value, or as bytes.

    Args:
        attempt: 1 for the first attempt; failures of earlier ones are counted.
        redelivered: The broker has handed it out before, perhaps to a process that died.

    """

    id: UUID
    type: str
    payload: Payload = field(repr=False)
    idempotency_key: str
    routing_key: str
    occurred_at: datetime
    correlation_id: str | None
    headers: Mapping[str, Any]
    attempt: int
    redelivered: bool


def open_message(
    envelope: Envelope, model: type[BaseModel] | None, *, attempt: int, redelivered: bool
) -> Message[Any]:
    """
    The message in *envelope*, its body read as *model*, or as JSON if that is None.

    Raises UnreadableMessage with the code `malformed` or `schema_unsupported`; its detail names
    fields and never their values.
    """
    return Message(
        id=envelope.id,
        type=envelope.type,
        payload=_payload(envelope, model),
        idempotency_key=envelope.idempotency_key,
        routing_key=envelope.routing_key,
        occurred_at=envelope.occurred_at,
        correlation_id=envelope.correlation_id,
        headers=envelope.headers,
        attempt=attempt,
        redelivered=redelivered,
    )


def _payload(envelope: Envelope, model: type[BaseModel] | None) -> Any:
    is_json = envelope.content_type.partition(";")[0] == JSON_CONTENT_TYPE
    if not is_json and model is None:
        return envelope.body
    if not is_json:
        raise UnreadableMessage("malformed", "content_type")
    value = _json(envelope.body)
    if model is None:
        return value
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fields = {".".join(map(str, part["loc"])) for part in error.errors(include_input=False)}
        raise UnreadableMessage("schema_unsupported", ", ".join(sorted(fields))) from None
    except InvalidEvent as error:
        raise UnreadableMessage("schema_unsupported", error.field) from None
    except Exception as error:  # noqa: BLE001
        # A validator of the user's may raise anything, and what it says may quote the body.
        raise UnreadableMessage("schema_unsupported", type(error).__name__) from None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        # UnicodeDecodeError and JSONDecodeError are ValueErrors, and both hold the body.
        raise UnreadableMessage("malformed", "body") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; two programs may read one with a key twice in two ways."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse(_constant: str) -> Any:
    raise ValueError("NaN and infinity are not JSON")

"""
Payloads as bytes.
"""

import json
from typing import Any

from pydantic import BaseModel

from outbox.errors import InvalidEvent

JSON_CONTENT_TYPE = "application/json"

MAX_BODY_BYTES = 1_048_576
"""Largest body in bytes; brokers refuse 16 MiB (RabbitMQ 4), and one large row stalls a batch."""


_MAX_PATH = 20


def encode(payload: Any, content_type: str) -> tuple[bytes, str]:
    """
    Return the body for *payload*, and its content type.

    Raises InvalidEvent if it is neither JSON nor bytes with a *content_type*; the error names the
    field and never the value.
    """
    if isinstance(payload, bytes):
        if not content_type:
            raise InvalidEvent("content_type", "is needed when the payload is bytes")
        return payload, content_type
    if content_type and content_type != JSON_CONTENT_TYPE:
        raise InvalidEvent("content_type", "must be left out unless the payload is bytes")
    if isinstance(payload, BaseModel):
        payload = _dumped(payload)
    return _json(payload), JSON_CONTENT_TYPE


def _dumped(model: BaseModel) -> Any:
    try:
        return _dump(model)
    except (TypeError, ValueError, RecursionError):
        # The errors of pydantic quote the value too.
        raise InvalidEvent(_field_of_fault(model), "cannot be written as JSON") from None


def _dump(model: BaseModel, **options: Any) -> Any:
    # A warning would show the value.
    return model.model_dump(mode="json", warnings=False, **options)


def _field_of_fault(model: BaseModel) -> str:
    """Return the field of *model* that cannot be written as JSON."""
    for name in type(model).model_fields:
        try:
            _dump(model, include={name})
        except (TypeError, ValueError, RecursionError):
            return f"payload.{name}"
    return "payload"


def _json(payload: Any) -> bytes:
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError):
        # The errors of json and of the encoder quote the value; the path alone is safe to show.
        raise InvalidEvent(_path_of_fault(payload), "cannot be written as JSON") from None
    except RecursionError:
        raise InvalidEvent("payload", "is nested too deeply") from None


def _path_of_fault(value: Any, path: str = "payload", *, depth: int = 0) -> str:
    """Return the path in *value* at which JSON fails; object keys are field names, no values."""
    if depth == _MAX_PATH:
        # Deep enough to be useful; a value that contains itself has no end.
        return path
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return path
        children = [(f"{path}.{key}", child) for key, child in value.items()]
    elif isinstance(value, (list, tuple)):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    for child_path, child in children:
        try:
            json.dumps(child, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError):
            return _path_of_fault(child, child_path, depth=depth + 1)
    return path

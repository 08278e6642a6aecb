"""
Payloads as bytes.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from outbox import json_text, media_type
from outbox.errors import InvalidEvent

JSON_CONTENT_TYPE = media_type.JSON

MAX_BODY_BYTES = 1_048_576
"""Largest body in bytes; brokers refuse 16 MiB (RabbitMQ 4), and one large row stalls a batch."""

Compression: TypeAlias = Literal["none", "gzip", "zstd"]
"""How a producer compresses a body, if that makes it shorter."""

COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

_MAX_PATH = 20
_LEAVES = frozenset({str, int, float, bool, type(None)})


def encode(payload: Any, content_type: str) -> tuple[bytes, str]:
    """
    Return the body for *payload*, and its content type.

    Raises InvalidEvent if it is neither JSON nor bytes with a *content_type*, or is a model that
    cannot be read back from JSON as an equal one; the error names the field and never the value.
    """
    if isinstance(payload, bytes):
        if not content_type:
            raise InvalidEvent("content_type", "is needed when the payload is bytes")
        # Not a string without a type checker; the type is checked with the other fields.
        if media_type.is_json(str(content_type)):
            _check_depth(payload)
        return payload, content_type
    if content_type and content_type != JSON_CONTENT_TYPE:
        _check_is_json(content_type)
    if is_model(payload):
        from outbox import model_check  # noqa: PLC0415 - it imports pydantic

        body = _json(model_check.dumped(payload))
        if len(body) <= MAX_BODY_BYTES:
            model_check.check(payload, body)
    else:
        body = _json(payload)
        if len(body) <= MAX_BODY_BYTES:
            _check_keys(payload)
    _check_depth(body)
    return body, content_type or JSON_CONTENT_TYPE


def is_model(payload: Any) -> bool:
    """
    Return whether *payload* is a model of pydantic.

    There is none until the application has imported pydantic, whose import takes a while.
    """
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base is not None and isinstance(payload, base)


def _check_depth(body: bytes) -> None:
    if len(body) <= MAX_BODY_BYTES and json_text.is_too_deep(body):
        raise InvalidEvent("payload", f"is nested more than {json_text.MAX_DEPTH} levels deep")


def _check_is_json(content_type: Any) -> None:
    is_known = isinstance(content_type, str) and content_type != media_type.UNKNOWN
    if not is_known or not media_type.may_be_json(content_type):
        raise InvalidEvent(
            "content_type", "must be JSON, such as application/fhir+json, unless payload is bytes"
        )
    if media_type.names_another_charset(content_type):
        raise InvalidEvent("content_type", "must have no charset but utf-8: JSON is written in it")


def _json(payload: Any) -> bytes:
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError):
        # The errors of json and of the encoder quote the value; the path alone is safe to show.
        raise InvalidEvent(
            _path_of_fault(payload, _is_no_json), "cannot be written as JSON"
        ) from None
    except RecursionError:
        raise InvalidEvent("payload", "is nested too deeply") from None


def _check_keys(payload: Any) -> None:
    """
    Raise InvalidEvent if an object in *payload* has a key that is no string, or a key twice.

    JSON would turn it into one: the consumer would get other keys, or one key twice. *payload* has
    been written as JSON, so it does not contain itself.
    """
    pending = [payload]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if not _is_object(value):
                raise InvalidEvent(
                    _path_of_fault(payload, _has_other_keys),
                    "has a key that is not a string, or a key twice",
                )
            value = value.values() if type(value) is dict else [each for _, each in value.items()]
        elif not isinstance(value, (list, tuple)):
            continue
        pending += [child for child in value if type(child) not in _LEAVES]


def _has_other_keys(value: Any) -> bool:
    try:
        _check_keys(value)
    except InvalidEvent:
        return True
    return False


def _is_object(value: dict[Any, Any]) -> bool:
    """Return whether the keys that are written of *value* are strings, each once."""
    if type(value) is dict:
        return set(map(type, value)) <= {str} or _are_texts(list(value))
    # JSON is written from the items, which a class may make of others than it holds. If it holds
    # none, it is written as an empty object.
    written = [key for key, _ in value.items()]
    return _are_texts(written) and set(written) == set(dict.keys(value))


def _are_texts(keys: Sequence[Any]) -> bool:
    # Classes of strings, such as those of StrEnum, may call two strings of one text different.
    if not all(isinstance(key, str) for key in keys):
        return False
    return len({str.__str__(key) for key in keys}) == len(keys)


def _is_no_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        return True
    return False


def _path_of_fault(
    value: Any, is_faulty: Callable[[Any], bool], path: str = "payload", *, depth: int = 0
) -> str:
    """Return the path in *value* at which it is faulty; keys are field names, no values."""
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
        if is_faulty(child):
            return _path_of_fault(child, is_faulty, child_path, depth=depth + 1)
    return path

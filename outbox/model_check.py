"""
Whether a consumer that reads the body of a model gets an equal model.

The check runs when the event is made. A model that would lose a value on its way is an error in
the producer's transaction, and not a surprise in a consumer.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, NoReturn

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError

from outbox import json_text, model_json
from outbox.errors import InvalidEvent

_CHANGED = "would reach consumers with another value: its JSON does not read back as the same"
_MASKED = (
    "is a secret, and only asterisks would be published; leave it out, or give the field a"
    " serializer that returns the value"
)
_EXCLUDED = "is excluded from JSON, and its value would be lost; leave it at its default"
_SUBCLASS = "holds another class than its type says, and values would be lost"
_EXTRA = "has extra values that do not read back from JSON as the same"
_REFUSED = "would be refused by its own model when a consumer reads it"


def dumped(model: BaseModel) -> Any:
    """Return *model* as a JSON value, or raise InvalidEvent, which names the field."""
    try:
        return model_json.write(model)
    except (TypeError, ValueError, RecursionError):
        # The errors of pydantic quote the value too.
        raise InvalidEvent(_field_of_fault(model), "cannot be written as JSON") from None


def _field_of_fault(model: BaseModel) -> str:
    """Return the field of *model* that cannot be written as JSON."""
    for name in type(model).model_fields:
        try:
            model_json.write(model, include={name})
        except (TypeError, ValueError, RecursionError):
            return f"payload.{name}"
    return "payload"


def check(model: BaseModel, body: bytes) -> None:
    """
    Raise InvalidEvent unless *body* reads back as a model that equals *model*.

    The error names the field and never its value. Private attributes are not compared: they
    belong to the object and are not a part of its data.
    """
    try:
        copy = model_json.read(type(model), body)
    except ValidationError as error:
        _refuse_unreadable(model, body, error)
    except Exception:  # noqa: BLE001
        # A validator may raise any error, and its text may quote the value.
        raise InvalidEvent("payload", _REFUSED) from None
    if type(model).__eq__ is BaseModel.__eq__ and copy == model:
        return
    if (found := _difference(model, copy, "payload")) is not None:
        raise InvalidEvent(*found)


def _refuse_unreadable(model: BaseModel, body: bytes, error: ValidationError) -> NoReturn:
    if json_text.is_too_deep(body):
        raise InvalidEvent(
            "payload", f"is nested more than {json_text.MAX_DEPTH} levels deep"
        ) from None
    (first, *_) = error.errors(include_input=False, include_context=False, include_url=False)
    # Further parts of the location may be keys of the data.
    part = next(iter(first["loc"]), "")
    for name, field in type(model).model_fields.items():
        if part in (name, field.alias, field.validation_alias, field.serialization_alias):
            problem = _MASKED if _is_secret(getattr(model, name, None)) else _REFUSED
            raise InvalidEvent(f"payload.{name}", problem) from None
    raise InvalidEvent("payload", _REFUSED) from None


def _difference(ours: Any, theirs: Any, path: str) -> tuple[str, str] | None:
    """The path at which *theirs* differs from *ours*, and the problem; None if they are equal."""
    if _is_secret(ours):
        return None if ours == theirs else (path, _MASKED)
    if isinstance(ours, (BaseModel, Mapping, list, tuple)) or is_dataclass(ours):
        if type(ours) is not type(theirs):
            is_declared = isinstance(theirs, (BaseModel, type(None))) or is_dataclass(theirs)
            return path, _SUBCLASS if is_declared else _CHANGED
        return _difference_within(ours, theirs, path)
    # `True == 1`, but a consumer may tell them apart.
    if isinstance(ours, bool) is not isinstance(theirs, bool):
        return path, _CHANGED
    return None if ours == theirs or _is_same_time(ours, theirs) else (path, _CHANGED)


def _is_same_time(ours: Any, theirs: Any) -> bool:
    """
    Whether both are one time.

    Python calls times of two zones unequal if one is in an hour that a change of the clocks skips
    or repeats; a time that was read from JSON has another zone, since JSON has only the offset.
    """
    if not (isinstance(ours, datetime) and isinstance(theirs, datetime)):
        return False
    offset, other = ours.utcoffset(), theirs.utcoffset()
    if offset is None or other is None:
        return False
    return ours.replace(tzinfo=None) - theirs.replace(tzinfo=None) == offset - other


def _difference_within(ours: Any, theirs: Any, path: str) -> tuple[str, str] | None:
    if isinstance(ours, BaseModel):
        return _difference_of_models(ours, theirs, path)
    if isinstance(ours, (list, tuple)):
        if len(ours) != len(theirs):
            return path, _CHANGED
        items = enumerate(zip(ours, theirs, strict=True))
        pairs = [(f"{path}[{at}]", mine, found) for at, (mine, found) in items]
    elif isinstance(ours, Mapping):
        if ours.keys() != theirs.keys():
            return path, _CHANGED
        # Keys may be data, unlike names of fields.
        pairs = [(path, value, theirs[key]) for key, value in ours.items()]
    else:
        names = [field.name for field in fields(ours)]
        pairs = [
            (f"{path}.{name}", getattr(ours, name, None), getattr(theirs, name, None))
            for name in names
        ]
    return _first_of(pairs)


def _difference_of_models(ours: BaseModel, theirs: BaseModel, path: str) -> tuple[str, str] | None:
    declared = type(ours).model_fields
    for name, field in declared.items():
        mine, found = getattr(ours, name, None), getattr(theirs, name, None)
        if (difference := _difference(mine, found, f"{path}.{name}")) is not None:
            return (f"{path}.{name}", _EXCLUDED) if field.exclude else difference
    if _first_of([(path, ours.__pydantic_extra__ or {}, theirs.__pydantic_extra__ or {})]):
        return path, _EXTRA
    return None


def _first_of(pairs: list[tuple[str, Any, Any]]) -> tuple[str, str] | None:
    found = (_difference(ours, theirs, path) for path, ours, theirs in pairs)
    return next((difference for difference in found if difference is not None), None)


def _is_secret(value: Any) -> bool:
    return isinstance(value, (SecretStr, SecretBytes, Secret))

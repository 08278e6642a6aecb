"""
The events that a handler is registered for: their type, and the type of their payload.

A registration says this once: by a model whose class names its event type, or by the annotation of
the handler's message. Where it says it twice, the two have to agree.
"""

from typing import Any, TypeAlias

from pydantic import BaseModel

from consumer.payload_type import (
    PayloadType,
    accepts,
    is_model,
    name_of,
    payload_type,
    without_alias,
)
from consumer.signature import EMPTY, Unresolved
from outbox.errors import ConfigurationError
from outbox.event import event_type_of
from outbox.validation import check_type

Registered: TypeAlias = str | type | None
"""The first argument of a registration: a type of events, a model that names it, or neither."""


def event_type(registered: Registered) -> str | None:
    """
    The type of events that *registered* says; None if the annotation has to.

    Raises ConfigurationError or InvalidEvent if no event can have it.
    """
    if registered is None:
        return None
    if isinstance(registered, type):
        if not is_model(registered):
            raise ConfigurationError(f"{registered.__name__} is no pydantic model")
        return event_type_of(registered)
    if not isinstance(registered, str):
        raise ConfigurationError("must be a type of events, or a model whose class names it")
    check_type(registered)
    return registered


def handled_event(
    registered: Registered, model: type[BaseModel] | None, annotation: Any
) -> tuple[str, PayloadType]:
    """
    The type of the events that a handler is registered for, and of its payload.

    *model* is the option, and *annotation* the argument of `Message[…]` of the handler.
    Raises ConfigurationError or InvalidEvent if they do not agree, or say too little.
    """
    if isinstance(registered, type):
        _check_pair(registered, model)
        model = registered
    elif registered is None and model is None and is_model(without_alias(annotation)):
        model = without_alias(annotation)
    found = _payload_type(model, annotation)
    known = event_type(registered)
    if known is None:
        if found.model is None or found.is_wrapped:
            raise ConfigurationError(
                "its type of events is not known: name it, as in on('ward.moved'), or annotate "
                "the message with a model whose class names its event_type"
            )
        return event_type_of(found.model), found
    named = getattr(found.model, "event_type", known)
    if isinstance(named, str) and named != known:
        raise ConfigurationError(
            f"is registered for {known}, and its model {name_of(found.model)} is of {named}"
        )
    return known, found


def _payload_type(model: type[BaseModel] | None, annotation: Any) -> PayloadType:
    if model is None:
        if isinstance(annotation, Unresolved):
            raise ConfigurationError(
                f"the annotation of its message needs {annotation.name}, which is not defined "
                "there when the handler is registered: import it outside of TYPE_CHECKING"
            )
        return payload_type(annotation)
    is_known = not isinstance(annotation, Unresolved) and annotation is not EMPTY
    if is_known and not accepts(annotation, model):
        raise ConfigurationError(
            f"is annotated with Message[{name_of(annotation)}], and registered for the model "
            f"{name_of(model)}"
        )
    return PayloadType(model)


def _check_pair(registered: type, model: type[BaseModel] | None) -> None:
    if model is not None and model is not registered:
        raise ConfigurationError(
            f"model: is not {registered.__name__}, which it is registered for"
        )


def check_model(model: object) -> None:
    """Raise ConfigurationError unless *model*, an option, is a model or None."""
    if model is not None and not is_model(model):
        raise ConfigurationError("model: must be a pydantic model")

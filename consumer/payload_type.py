"""
The type as which a handler gets payloads, from the annotation of its message.

    Message[Any], Message[object], none    the JSON value, or bytes if the body is no JSON
    Message[bytes]                         the body, whatever its content type is
    Message[Model]                         the model of pydantic
    Message[anything else]                 what pydantic makes of the JSON: a dataclass, a union, …
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, NewType, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, PydanticUndefinedAnnotation, PydanticUserError, RootModel

from outbox.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class PayloadType:
    """
    How a body becomes a payload.

    Args:
        model: The model that validates the JSON; None if no annotation asks for that.
        is_wrapped: The payload is the value in *model*, which was made around another type.
        is_bytes: The payload is the body itself.

    """

    model: type[BaseModel] | None = None
    is_wrapped: bool = False
    is_bytes: bool = False


_ADVICE = {"typed-dict-version": "before Python 3.12 it needs typing_extensions.TypedDict"}

UNCHECKED = PayloadType()
BYTES = PayloadType(is_bytes=True)


def is_unchecked(annotation: Any) -> bool:
    """Whether *annotation* accepts every payload."""
    unchecked = annotation in (Any, object, inspect.Parameter.empty)
    return unchecked or isinstance(annotation, TypeVar)


def payload_type(annotation: Any) -> PayloadType:
    """
    The payload type for *annotation*, the argument of `Message[…]`.

    Raises ConfigurationError if pydantic cannot validate such a type.
    """
    annotation = without_alias(annotation)
    if is_unchecked(annotation):
        return UNCHECKED
    if annotation is bytes:
        return BYTES
    if is_model(annotation):
        return PayloadType(annotation)
    try:
        # A class of its own for each annotation: `RootModel[…]` alone would be shared by all
        # annotations that are equal, as `int | str` and `str | int` are.
        wrapper = type("Payload", (RootModel[annotation],), {"__module__": __name__})
    except Exception as error:
        # Its own text names types and links; the annotation is the developer's.
        reason = (isinstance(error, PydanticUserError) and error.code) or type(error).__name__
        raise ConfigurationError(
            f"is annotated with Message[{name_of(annotation)}], which pydantic cannot validate "
            f"({_ADVICE.get(reason, reason)})"
        ) from error
    return PayloadType(wrapper, is_wrapped=True)


def check_defined(payload_type: PayloadType, names: Mapping[str, Any]) -> None:
    """
    Raise ConfigurationError if a type is not defined that payloads of *payload_type* are made of.

    With such a model no payload can be read, and its messages would be dead-lettered.
    *names* are those of the module of the handler, where quoted types are looked up.
    """
    model = payload_type.model
    if model is None:
        return
    if model is BaseModel:
        raise ConfigurationError("BaseModel is no model itself: name a class derived from it")
    missing = "one"
    try:
        model.model_rebuild(_types_namespace=names if payload_type.is_wrapped else None)
    except PydanticUndefinedAnnotation as error:
        missing = error.name or missing
    if not model.__pydantic_complete__:
        named = "Message[…]" if payload_type.is_wrapped else name_of(model)
        raise ConfigurationError(
            f"{named} needs the type {missing}, which is not defined: import it outside of "
            "TYPE_CHECKING"
        )


def without_alias(annotation: Any) -> Any:
    """The type that *annotation* is another name of: of `type X = …`, or of a `NewType`."""
    while (inner := _inner(annotation)) is not annotation:
        annotation = inner
    return annotation


def _inner(annotation: Any) -> Any:
    if isinstance(annotation, NewType):
        return annotation.__supertype__
    # Python 3.12 has a class for `type X = …`, and typing_extensions has one of the same name.
    is_alias = type(annotation).__name__ == "TypeAliasType"
    return annotation.__value__ if is_alias else annotation


def accepts(annotation: Any, model: type[BaseModel]) -> bool:
    """Whether a handler whose payload has this *annotation* can be given instances of *model*."""
    annotation = without_alias(annotation)
    if get_origin(annotation) is Annotated:
        return accepts(get_args(annotation)[0], model)
    if is_unchecked(annotation):
        return True
    if get_origin(annotation) in {Union, UnionType}:
        return any(accepts(each, model) for each in get_args(annotation))
    try:
        return inspect.isclass(annotation) and issubclass(model, annotation)
    except TypeError:  # a protocol with attributes, or an alias such as dict[str, int]
        return annotation is model


def is_model(value: object) -> TypeGuard[type[BaseModel]]:
    """Whether *value* is a class of pydantic models."""
    return isinstance(value, type) and issubclass(value, BaseModel)


def name_of(annotation: Any) -> str:
    """*annotation* as a developer writes it, for messages."""
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)

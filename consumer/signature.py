"""
The signature of a handler, read when it is registered: pure.

    on           (message: Message[T], session: AsyncSession, *resources)
    on_batch     (messages: Sequence[Message[T]], session: AsyncSession, *resources)
    on_leased    (message: Message[T], *resources)

A parameter behind these that has no default is a resource, which the consumer's lifespan provides.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, NoReturn, get_args, get_origin

from sqlalchemy.ext.asyncio import AsyncSession

from consumer.message import Message
from outbox.errors import ConfigurationError, InvalidEvent

WITH_SESSION = ("message", "session")
BATCH = ("messages", "session")
ALONE = ("message",)

EMPTY = inspect.Parameter.empty


class Unresolved:
    """An annotation of which a *name* is not defined where the function is."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function, with its annotation as an object."""

    name: str
    annotation: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """
    What a handler says about its arguments.

    Args:
        payload: The argument of `Message[…]`; `EMPTY` if there is none.
        resources: The parameters that the lifespan has to provide.
        returns: Whether its annotation says that it returns something.

    """

    payload: Any = EMPTY
    resources: tuple[Parameter, ...] = ()
    returns: bool = False


def read(function: Any, *, parameters: tuple[str, ...]) -> Signature:
    """
    The signature of *function*, a coroutine function with these first *parameters*.

    Raises ConfigurationError, which names the function and the parameter, if it is none: a plain
    function would take effect before its result is seen to be no coroutine.
    """
    name = name_of(function)
    _check_coroutine(name, function)
    found = _parameters(function)
    if found is None:  # a function of a compiled module may have no signature
        return Signature()
    positional = [each for each in found if each.kind in _POSITIONAL]
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in found)
    if len(positional) < len(parameters) and not takes_any:
        raise ConfigurationError(
            f"{name}: must take {len(parameters)} positional arguments: {', '.join(parameters)}"
        )
    payload = EMPTY
    names = globals_of(function)
    for declared, parameter in zip(parameters, positional, strict=False):
        if declared == "session":
            _check_session(name, parameter)
        elif declared in {"message", "messages"}:
            payload = _payload(name, parameter, names, is_batch=declared == "messages")
    others = [*positional[len(parameters) :], *(p for p in found if p.kind is p.KEYWORD_ONLY)]
    resources = [each for each in others if each.default is EMPTY]
    if any(each.kind is each.POSITIONAL_ONLY for each in resources):
        raise ConfigurationError(f"{name}: a resource must not be a positional-only parameter")
    wanted = tuple(Parameter(p.name, p.annotation) for p in resources)
    return Signature(payload, wanted, _returns(function, names))


def _returns(function: Any, names: Mapping[str, Any]) -> bool:
    found = getattr(innermost(function), "__annotations__", {}).get("return", None)
    return annotation_of(found, names) not in (None, type(None), NoReturn, Never)


def _check_coroutine(name: str, function: Any) -> None:
    called = _called(function)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(f"{name}: must not be a generator: remove yield")
    if not inspect.iscoroutinefunction(called):
        raise ConfigurationError(f"{name}: must be declared with async def")


@contextmanager
def naming(place: str, *, separator: str = ": ") -> Iterator[None]:
    """Let errors of this block begin with *place*."""
    try:
        yield
    except (InvalidEvent, ConfigurationError) as error:
        raise ConfigurationError(f"{place}{separator}{error}") from None


def name_of(function: Any) -> str:
    """The name of *function* in messages."""
    return str(getattr(function, "__qualname__", type(function).__name__))


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_SEQUENCES = (Sequence, Iterable, list)
_ANY_MESSAGE = (EMPTY, Any, object, Message)


def _called(function: Any) -> Any:
    """Return the function that decides whether the call is awaited."""
    # A decorator that uses functools.wraps may return a plain function around a coroutine one.
    if inspect.iscoroutinefunction(function):
        return function
    return innermost(function)


def innermost(function: Any) -> Any:
    """*function* as it is written: without decorators, `functools.partial` and `__call__`."""
    inner = inspect.unwrap(function)
    while isinstance(inner, partial):  # a mock has any attribute
        inner = inspect.unwrap(inner.func)
    if inspect.isroutine(inner) or inspect.isclass(inner) or not callable(inner):
        return inner
    return inspect.unwrap(type(inner).__call__)


def _parameters(function: Any) -> list[inspect.Parameter] | None:
    """The parameters of *function* with their annotations as objects; None if it has none."""
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        from annotationlib import Format  # noqa: PLC0415 - Python 3.14 has it

        options["annotation_format"] = Format.FORWARDREF
    try:
        found = inspect.signature(function, **options).parameters
    except (TypeError, ValueError):
        return None
    names = globals_of(function)
    return [
        each.replace(annotation=annotation_of(each.annotation, names)) for each in found.values()
    ]


def globals_of(function: Any) -> Mapping[str, Any]:
    """The names of the module in which *function* is written."""
    # A decorator of another module has globals of its own, and takes over the annotations.
    found: Mapping[str, Any] = getattr(innermost(function), "__globals__", {})
    return found


def annotation_of(annotation: Any, names: Mapping[str, Any]) -> Any:
    """*annotation*, evaluated with *names* if it is a text; `Unresolved` if it cannot be."""
    text = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(text, str):
        return annotation
    try:
        # The developer's own code, as Python itself evaluates it.
        return eval(text, dict(names))  # noqa: S307
    except NameError as error:
        return Unresolved(error.name or text)
    except Exception:  # noqa: BLE001 - any code may stand in an annotation
        return Unresolved(text)


def _check_session(function: str, parameter: inspect.Parameter) -> None:
    annotation = parameter.annotation
    if annotation in (EMPTY, Any) or not inspect.isclass(annotation):
        return
    try:
        fits = issubclass(AsyncSession, annotation)
    except TypeError:  # a protocol with attributes
        return
    if not fits:
        raise ConfigurationError(
            f"{function}: {parameter.name} must be annotated with AsyncSession, "
            f"not with {annotation.__name__}"
        )


def _payload(
    function: str, parameter: inspect.Parameter, names: Mapping[str, Any], *, is_batch: bool
) -> Any:
    """The argument of `Message[…]` in the annotation of *parameter*."""
    annotation = annotation_of(parameter.annotation, names)  # a text within a text, too
    if is_batch:
        annotation = annotation_of(_item(annotation), names)
    if annotation in _ANY_MESSAGE:
        return EMPTY
    if isinstance(annotation, Unresolved):
        return annotation
    if get_origin(annotation) is Message:
        (payload,) = get_args(annotation)
        return annotation_of(payload, names)
    wanted = "Sequence[Message[…]]" if is_batch else "Message[…]"
    raise ConfigurationError(f"{function}: {parameter.name} must be annotated with {wanted}")


def _item(annotation: Any) -> Any:
    """The type of the items of a sequence; None if it is of another type."""
    if annotation in (EMPTY, Any, object, *_SEQUENCES):
        return EMPTY
    if isinstance(annotation, Unresolved):
        return annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    is_sequence = inspect.isclass(origin) and issubclass(list, origin)
    return arguments[0] if is_sequence and arguments else None

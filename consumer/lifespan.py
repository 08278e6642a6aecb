"""
The lifespan of a consumer, and the resources that it provides: pure, but for entering it.

    @dataclass
    class Resources:
        http: httpx.AsyncClient

    @asynccontextmanager
    async def resources() -> AsyncGenerator[Resources, None]:
        async with httpx.AsyncClient() as http:
            yield Resources(http)

    etl = Consumer("etl", bindings=["#"], lifespan=resources)

A handler that has a parameter `http: httpx.AsyncClient` gets the client. The types are compared
when the handler is registered, so a resource that is missing is found before any message.
"""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel

from consumer.signature import (
    EMPTY,
    Parameter,
    Unresolved,
    annotation_of,
    globals_of,
    innermost,
    name_of,
)
from outbox.errors import ConfigurationError

LifespanFunction: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]

_UNDECORATED = (inspect.isasyncgenfunction, inspect.iscoroutinefunction)
_CONTEXTS = (AsyncIterator, AsyncGenerator, AbstractAsyncContextManager)


@dataclass(frozen=True, slots=True)
class Provided:
    """A resource: the value of the lifespan, or its field of this *name*."""

    annotation: Any
    name: str | None = None

    def of(self, value: Any) -> Any:
        """The resource in the *value* of the lifespan."""
        if self.name is None:
            return value
        return value[self.name] if isinstance(value, Mapping) else getattr(value, self.name)


class Lifespan:
    """
    What *function* provides while a consumer runs.

    Raises ConfigurationError unless *function* can be called without arguments and has an
    annotation that says of which type its value is.
    """

    def __init__(self, function: LifespanFunction) -> None:
        name = name_of(function)
        if any(is_kind(function) for is_kind in _UNDECORATED) or not callable(function):
            raise ConfigurationError(
                f"lifespan {name}: must be a function that returns an async context manager: "
                "decorate it with contextlib.asynccontextmanager"
            )
        _check_no_arguments(name, function)
        self.enter = function
        self._name = name
        self._provided = tuple(_provided(_type_of_value(name, function)))

    def resources(self, function: str, wanted: tuple[Parameter, ...]) -> dict[str, Provided]:
        """
        The resources for the parameters *wanted* by the function of this name.

        Raises ConfigurationError, which names the parameter, if one is missing or ambiguous.
        """
        return {parameter.name: self._one(function, parameter) for parameter in wanted}

    def _one(self, function: str, wanted: Parameter) -> Provided:
        annotation = wanted.annotation
        if annotation in (EMPTY, Any, object) or isinstance(annotation, Unresolved):
            raise ConfigurationError(
                f"{function}: {wanted.name} must be annotated with the type of a resource, "
                "which is imported where the function is"
            )
        exact = [each for each in self._provided if each.annotation == annotation]
        found = exact or [each for each in self._provided if _is_kind_of(each, annotation)]
        named = [each for each in found if each.name == wanted.name]
        if len(found) == 1 or len(named) == 1:
            return (named or found)[0]
        problem = (
            "provides several resources of its type, and none of its name"
            if found
            else ("provides no resource of its type")
        )
        raise ConfigurationError(f"{function}: {wanted.name}: lifespan {self._name} {problem}")


def provided(
    lifespan: Lifespan | None,
    function: str,
    wanted: tuple[Parameter, ...],
    arguments: tuple[str, ...],
) -> dict[str, Provided]:
    """
    The resources of *lifespan* for the parameters *wanted* by *function*, behind its *arguments*.

    Raises ConfigurationError if there is no such resource.
    """
    if not wanted:
        return {}
    if lifespan is None:
        further = ", ".join(parameter.name for parameter in wanted)
        raise ConfigurationError(
            f"{function}: must take {len(arguments)} positional arguments: "
            f"{', '.join(arguments)}; a further one, {further}, is a resource, which needs "
            "Consumer(…, lifespan=…)"
        )
    return lifespan.resources(function, wanted)


def entered(lifespan: Lifespan | None) -> AbstractAsyncContextManager[Any]:
    """The block in which *lifespan* has begun; it gives the value, or None without a lifespan."""
    return nullcontext() if lifespan is None else lifespan.enter()


def _is_kind_of(provided: Provided, annotation: Any) -> bool:
    try:
        return issubclass(provided.annotation, annotation)
    except TypeError:  # an alias such as dict[str, int], or a protocol with attributes
        return False


def _check_no_arguments(name: str, function: Any) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise ConfigurationError(
            f"lifespan {name}: must take no arguments: bind its own with functools.partial"
        ) from None
    except ValueError:  # a function of a compiled module may have no signature
        return


def _type_of_value(name: str, function: Any) -> Any:
    inner, names = innermost(function), globals_of(function)
    annotation = annotation_of(getattr(inner, "__annotations__", {}).get("return", EMPTY), names)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if inspect.isclass(origin) and issubclass(origin, _CONTEXTS) and arguments:
        return annotation_of(arguments[0], names)
    raise ConfigurationError(
        f"lifespan {name}: its annotation must say what it provides, as in "
        "-> AsyncGenerator[Resources, None]"
    )


def _provided(value: Any) -> list[Provided]:
    if value is None or value is type(None):
        return []
    return [Provided(value), *(Provided(kind, name) for name, kind in _fields(value).items())]


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a class of records, with their types; none of any other type."""
    is_record = inspect.isclass(value) and (
        hasattr(value, "__dataclass_fields__")
        or hasattr(value, "_fields")
        or issubclass(value, BaseModel)
        or is_typeddict(value)
    )
    return get_type_hints(value) if is_record else {}

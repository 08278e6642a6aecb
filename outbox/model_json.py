"""
Models of pydantic as JSON, and back to equal models.

A model is written under its aliases. It is read under its aliases and its field names, because
older producers wrote field names. Numbers reach a `Decimal` with all their digits.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from outbox import json_text
from outbox.errors import InvalidEvent

Model = TypeVar("Model", bound=BaseModel)

_MOST_FIELDS = 10


class _Traits(NamedTuple):
    """
    The traits of a class of models that decide how it is written and read.

    Args:
        by_alias: Write aliases. False if validation accepts one of them under no condition.
        by_name: Read field names too. None, for the rule of the model, if one is another's alias.
        round_trip: Leave out computed fields, which the model would refuse or keep as data.

    """

    by_alias: bool
    by_name: bool | None
    round_trip: bool
    has_decimals: bool
    names: frozenset[str]


class _Number(float):
    """A number of a JSON text that remembers whether its digits were asked for."""

    text: str
    is_asked_for = False

    def __str__(self) -> str:
        self.is_asked_for = True
        return self.text


def write(model: BaseModel, **options: Any) -> Any:
    """Return *model* as a JSON value; raises the errors of pydantic, which quote the value."""
    traits = _traits(type(model))
    # A warning would show the value.
    return model.model_dump(
        mode="json",
        warnings=False,
        by_alias=traits.by_alias,
        round_trip=traits.round_trip,
        **options,
    )


def read(model: type[Model], body: bytes) -> Model:
    """
    Return the *model* in the JSON text *body*, which `json_text.read` accepts.

    Raises the errors of pydantic and of validators, which may quote the body.
    """
    traits = _traits(model)
    body = json_text.without_mark(body)
    if traits.has_decimals:
        body = _with_digits_as_text(model, body, traits)
    return _validated(model, body, traits)


def declared_fields(model: type[BaseModel], error: ValidationError) -> str:
    """
    The fields that *error* is about, joined by commas.

    Only names that *model* declares are shown. All others come from the body: `*` stands for a
    key, and `[]` for an index.
    """
    known = _traits(model).names
    places = {
        ".".join(
            "[]" if isinstance(part, int) else part if part in known else "*"
            for part in _location(found)
        )
        for found in error.errors(include_input=False, include_url=False)
    }
    return ", ".join(sorted(places - {""})[:_MOST_FIELDS])


def _location(found: Any) -> tuple[int | str, ...]:
    cause = found.get("ctx", {}).get("error")
    # A model of ours wraps the errors of its fields.
    inner = cause.field.split(".") if isinstance(cause, InvalidEvent) else ()
    return (*found["loc"], *inner)


def _validated(model: type[Model], body: bytes, traits: _Traits) -> Model:
    return model.model_validate_json(body, by_alias=traits.by_name, by_name=traits.by_name)


def _with_digits_as_text(model: type[BaseModel], body: bytes, traits: _Traits) -> bytes:
    """
    Return *body* with those numbers as text that *model* reads as `Decimal`.

    The parser of pydantic makes each number a float first, which keeps 17 digits and no zeros at
    the end. Which numbers become a `Decimal` is known by a first validation: it asks for the text.
    """
    numbers: list[_Number] = []

    def remembering(text: str) -> float:
        number = json_text.finite(text)
        if repr(number) == text:
            return number
        numbers.append(_Number(number))
        numbers[-1].text = text
        return numbers[-1]

    value = json_text.reader(remembering)(body)
    if not numbers:
        return body
    with suppress(Exception):
        # Its errors are found again below. Not strict, since it reads no JSON but Python values.
        model.model_validate(value, strict=False, by_alias=traits.by_name, by_name=traits.by_name)
    found = iter(numbers)

    def as_asked(text: str) -> float | str:
        number = json_text.finite(text)
        if repr(number) == text:
            return number
        return text if next(found).is_asked_for else number

    return json.dumps(json_text.reader(as_asked)(body), ensure_ascii=False).encode()


# Bounded, because a program may make classes as it runs.
@lru_cache(maxsize=1024)
def _traits(model: type[BaseModel]) -> _Traits:
    schema = model.__pydantic_core_schema__
    kinds: set[Any] = set()
    names: set[str] = set()
    by_alias, by_name, has_computed, keeps_or_refuses_extra = True, True, False, False
    for node in _nodes(schema):
        kinds.add(node.get("type"))
        has_computed = has_computed or bool(node.get("computed_fields"))
        extra = {node.get("extra_behavior"), node.get("extra_fields_behavior")}
        keeps_or_refuses_extra = keeps_or_refuses_extra or bool(extra & {"allow", "forbid"})
        fields = dict(_fields(node))
        for name, aliases in fields.items():
            names |= {name, *aliases.read}
            by_alias = by_alias and aliases.written in {name, *aliases.read}
            by_name = by_name and not (aliases.read & (fields.keys() - {name}))
    return _Traits(
        by_alias=by_alias,
        by_name=by_name or None,
        round_trip="json" in kinds or (has_computed and keeps_or_refuses_extra),
        has_decimals="decimal" in kinds and not any(map(_is_text_or_decimal, _nodes(schema))),
        names=frozenset(names),
    )


def _is_text_or_decimal(node: Mapping[str, Any]) -> bool:
    """Whether *node* is a union that would read a number written as text as a text."""
    kinds = {inner.get("type") for inner in _nodes(node)} if node.get("type") == "union" else ()
    return "decimal" in kinds and not {"str", "any", "definition-ref"}.isdisjoint(kinds)


class _Aliases(NamedTuple):
    written: str
    read: set[str]


def _fields(node: Mapping[str, Any]) -> Iterator[tuple[str, _Aliases]]:
    """The fields that *node* of a core schema declares, with the aliases of each."""
    fields = node.get("fields")
    if isinstance(fields, Mapping):
        named = [(name, field) for name, field in fields.items() if isinstance(field, Mapping)]
    elif isinstance(fields, list):
        named = [(field["name"], field) for field in fields if isinstance(field, Mapping)]
    else:
        return
    for name, field in named:
        alias = field.get("validation_alias")
        paths = [[alias]] if isinstance(alias, str) else alias or []
        if paths and not isinstance(paths[0], list):
            paths = [paths]
        read = {path[0] for path in paths if len(path) == 1}
        yield name, _Aliases(field.get("serialization_alias") or name, read)


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    """*schema* and all schemas in it; values of users, such as defaults, are none."""
    if isinstance(schema, Mapping):
        yield schema
        for name, value in schema.items():
            if name in {"fields", "choices"} and isinstance(value, Mapping):
                # Its keys are names of the application's, such as `type`.
                yield from _nodes(list(value.values()))
            elif name not in {"default", "expected", "metadata"}:
                yield from _nodes(value)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            yield from _nodes(value)

"""
Two schemas of one type, keyword by keyword: what the new one refuses that the old one accepts.

Pure. Texts name keywords and numbers of values, never a value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from consumer.contract.alternatives import Schema

NUMBERS = ("integer", "number")

COMPARED = {
    *("type", "enum", "const", "multipleOf", "pattern", "format", "contentEncoding"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "uniqueItems", "items", "prefixItems", "additionalItems"),
    *("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    *("propertyNames", "patternProperties", "contentMediaType"),
}
"""The keywords of JSON Schema that are compared; any other one that differs is undecided."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Something that may no longer be read.

    Args:
        path: The field, such as `.readings[].value`; empty for the whole payload.
        is_certain: False if the schemas cannot be compared there.

    """

    path: str
    text: str
    is_certain: bool = True

    def below(self, path: str) -> "Finding":
        """The same, seen from further out."""
        return replace(self, path=path + self.path)


def undecided(keyword: str) -> Finding:
    """A finding that says that *keyword* cannot be compared."""
    return Finding("", f"cannot be compared: {keyword}", is_certain=False)


def values_of(schema: Schema) -> list[Any] | None:
    """The values that *schema* lists; None if it lists none."""
    if "const" in schema:
        return [schema["const"]]
    found: list[Any] | None = schema.get("enum")
    return found


def type_of(value: Any) -> str:
    """The JSON type of *value*."""
    if isinstance(value, float) and value.is_integer():
        return "integer"
    return _TYPES[type(value)]


_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def accepts_type(wanted: str | None, kind: str | None) -> bool:
    """Whether a schema of the type *wanted* accepts every value of the type *kind*."""
    return wanted is None or wanted == kind or (wanted, kind) == ("number", "integer")


def listed(old: Schema, new: Schema) -> Iterator[Finding]:
    """Findings if at least one of the two lists its values."""
    before, now = values_of(old), values_of(new)
    if before is None:
        if old.get("type") == "boolean" and _all_in([True, False], now or ()):
            return
        if not (old.get("type") == "null" and _all_in([None], now or ())):
            yield Finding("", "accepts only listed values now")
    elif now is not None:
        gone = sum(not _all_in([value], now) for value in before)
        if gone:
            yield Finding("", f"no longer accepts {gone} of its {len(before)} listed values")
    else:
        yield from _listed_by_constraints(before, new)


def _listed_by_constraints(values: list[Any], new: Schema) -> Iterator[Finding]:
    if not all(accepts_type(new.get("type"), type_of(value)) for value in values):
        yield Finding("", "no longer accepts the type of one of its listed values")
    for keyword in sorted(new.keys() & _HOLDS.keys()):
        kind, holds = _HOLDS[keyword]
        concerned = [value for value in values if type_of(value) in kind]
        try:
            is_kept = all(holds(value, new[keyword]) for value in concerned)
        except re.error:  # pydantic has another kind of regular expressions
            yield undecided(keyword)
            continue
        if not is_kept:
            yield Finding("", f"no longer accepts one of its listed values: {keyword}")
    if "format" in new and "string" in map(type_of, values):
        yield undecided("format")
    if any(type_of(value) in {"array", "object"} for value in values):
        yield undecided("enum")


def numbers(old: Schema, new: Schema) -> Iterator[Finding]:
    """Findings about bounds of numbers."""
    for bound, exclusive, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        before, now = _bound(old, bound, exclusive, sign), _bound(new, bound, exclusive, sign)
        if now is not None and (before is None or before < now):
            yield Finding("", f"has a narrower {bound}")
    step = new.get("multipleOf")
    if step is not None and not _is_multiple(old, step):
        yield Finding("", "has another multipleOf")


def _bound(schema: Schema, bound: str, exclusive: str, sign: int) -> tuple[Any, bool] | None:
    """The bound of *schema*, and whether it is exclusive; larger ones are narrower."""
    found = [
        (sign * schema[name], name == exclusive) for name in (bound, exclusive) if name in schema
    ]
    return max(found, default=None)


def _is_multiple(old: Schema, step: Any) -> bool:
    before = old.get("multipleOf", 1 if old.get("type") == "integer" else None)
    return before is not None and Fraction(str(before)) % Fraction(str(step)) == 0


def sizes(old: Schema, new: Schema, *, smallest: str, largest: str) -> Iterator[Finding]:
    """Findings about the size of texts, arrays or objects, whose keywords are given."""
    if old.get(smallest, 0) < new.get(smallest, 0):
        yield Finding("", f"has a larger {smallest}")
    if largest in new and new[largest] < old.get(largest, new[largest] + 1):
        yield Finding("", f"has a smaller {largest}")


def texts(old: Schema, new: Schema) -> Iterator[Finding]:
    """Findings about the length, the pattern and the format of texts."""
    yield from sizes(old, new, smallest="minLength", largest="maxLength")
    for keyword in ("pattern", "format", "contentEncoding", "contentMediaType"):
        if keyword not in new or old.get(keyword) == new[keyword]:
            continue
        if keyword == "pattern" and keyword in old:
            yield undecided(keyword)
        else:
            verb = "has another" if keyword in old else "now has a"
            yield Finding("", f"{verb} {keyword}")


def _all_in(values: list[Any], accepted: Any) -> bool:
    """Whether all are *accepted*; for JSON, true is not 1."""
    return all(any(_is_same(value, other) for other in accepted) for value in values)


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


_HOLDS: dict[str, tuple[tuple[str, ...], Any]] = {
    "minimum": (NUMBERS, lambda value, bound: value >= bound),
    "maximum": (NUMBERS, lambda value, bound: value <= bound),
    "exclusiveMinimum": (NUMBERS, lambda value, bound: value > bound),
    "exclusiveMaximum": (NUMBERS, lambda value, bound: value < bound),
    "multipleOf": (NUMBERS, lambda value, step: Fraction(str(value)) % Fraction(str(step)) == 0),
    "minLength": (("string",), lambda value, length: len(value) >= length),
    "maxLength": (("string",), lambda value, length: len(value) <= length),
    "pattern": (("string",), lambda value, pattern: re.search(pattern, value) is not None),
}


def items(schema: Schema) -> tuple[list[Any], Any]:
    """The schemas of the first items, and that of all others, in both spellings of JSON Schema."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items

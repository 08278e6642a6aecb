"""
A JSON Schema as a list of alternatives without references, `allOf`, `anyOf` and `oneOf`: pure.

An alternative has one type, or says nothing of the type. A value is valid if one of them accepts
it. The schema `true` is `{}`, and `false` has no alternative.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

ALSO_READ = "x-also-read-as"
"""Other names under which a field is read: those of `AliasChoices` behind the first one."""

_MOST = 1_000
_COMBINING = {"$ref", "allOf", "anyOf", "oneOf"}
ANNOTATIONS = {
    *("$id", "$schema", "$comment", "$defs", "$anchor", "definitions", "title", "description"),
    *("default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"),
    "externalDocs",
}
"""Keywords that say nothing about which values are valid."""


class Undecidable(Exception):  # noqa: N818 - it names what happened
    """Schemas that cannot be compared, because of *keyword*."""

    def __init__(self, keyword: str) -> None:
        self.keyword = keyword
        super().__init__(keyword)


def pointed(document: Any, reference: str) -> Any:
    """
    The part of *document* at *reference*, such as `#/components/schemas/Reading`.

    Raises ValueError, KeyError, IndexError or TypeError if it has none.
    """
    if not reference.startswith("#"):
        raise ValueError("refers to another file")
    found = document
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def constraints(schema: Schema) -> dict[str, Any]:
    """What *schema* says, without annotations and extensions."""
    return {
        name: value
        for name, value in schema.items()
        if name not in ANNOTATIONS and not name.startswith("x-")
    }


class Alternatives:
    """The alternatives of the schemas in *document*; the same objects for the same schema."""

    def __init__(self, document: Any) -> None:
        self._document = document
        # With the schema, so that no other object gets its id.
        self._known: dict[int, tuple[Any, list[Schema]]] = {}

    def of(self, schema: Any, *, depth: int = 0) -> list[Schema]:
        """
        The alternatives of *schema*.

        Raises Undecidable if they are too many, or a reference is not in the document.
        """
        if isinstance(schema, bool):
            return [_ANYTHING] if schema else []
        if id(schema) not in self._known:
            if depth > _MOST or not isinstance(schema, Mapping):
                raise Undecidable("$ref")
            self._known[id(schema)] = schema, self._made(schema, depth)
        return self._known[id(schema)][1]

    def are_exclusive(self, schema: Any, *, depth: int = 0) -> bool:
        """Whether a value of *schema* may have to fit no more than one of its alternatives."""
        if not isinstance(schema, Mapping) or not _COMBINING & schema.keys():
            return False
        if depth > _MOST:
            raise Undecidable("$ref")
        parts = (part for union in self._unions(schema) for part in union)
        return "oneOf" in schema or any(
            self.are_exclusive(part, depth=depth + 1) for part in parts
        )

    def target(self, schema: Any) -> Any:
        """What *schema* refers to, if it is nothing but a reference; else *schema*."""
        for _ in range(_MOST):
            if not isinstance(schema, Mapping) or constraints(schema).keys() != {"$ref"}:
                return schema
            schema = self._pointed(schema["$ref"])
        raise Undecidable("$ref")

    def _made(self, schema: Schema, depth: int) -> list[Schema]:
        if not _COMBINING & schema.keys():
            return _by_type(schema)
        rest = {
            name: value for name, value in constraints(schema).items() if name not in _COMBINING
        }
        found = _by_type(rest)
        for union in self._unions(schema):
            branches = [each for part in union for each in self.of(part, depth=depth + 1)]
            merged = (both(one, other) for one in found for other in branches)
            found = [each for each in merged if each is not None]
            if len(found) > _MOST:
                raise Undecidable("anyOf")
        return found

    def _unions(self, schema: Schema) -> Iterator[list[Any]]:
        """Lists of schemas, of each of which a valid value fits at least one."""
        if "$ref" in schema:
            yield [self._pointed(schema["$ref"])]
        for part in schema.get("allOf", ()):
            yield [part]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                yield schema[keyword]

    def _pointed(self, reference: str) -> Any:
        try:
            return pointed(self._document, reference)
        except (ValueError, KeyError, IndexError, TypeError):
            raise Undecidable("$ref") from None


_ANYTHING: Schema = {}


def _by_type(schema: Schema) -> list[Schema]:
    kind = schema.get("type")
    if isinstance(kind, list):
        return [{**schema, "type": each} for each in kind]
    return [schema]


def both(one: Schema, other: Schema) -> Schema | None:
    """
    A schema for the values that *one* and *other* accept; None if there are none.

    Raises Undecidable if it cannot be written as one.
    """
    if not constraints(one):
        return other
    if not constraints(other):
        return one
    for name, others in _OF_THE_REST:
        if (name in one or name in other) and _differ(one, other, (name, *others)):
            raise Undecidable(name)
    kinds = {one.get("type"), other.get("type")} - {None}
    if len(kinds) > 1 and kinds != {"integer", "number"}:
        return None
    merged = {**constraints(one)}
    for name, value in constraints(other).items():
        merged[name] = _merged(name, merged[name], value) if name in merged else value
    return merged


def _merged(name: str, one: Any, other: Any) -> Any:
    if one == other:
        return one
    if name not in _MERGED:
        raise Undecidable(name)
    return _MERGED[name](one, other)


_OF_THE_REST = (
    ("additionalProperties", ("properties", "patternProperties")),
    ("additionalItems", ("items",)),
    ("prefixItems", ("items",)),
)
"""Keywords about what other keywords of the same schema do not name."""


def _differ(one: Schema, other: Schema, names: tuple[str, ...]) -> bool:
    return any(one.get(name) != other.get(name) for name in names)


def _of_both(one: Any, other: Any) -> Any:
    return {"allOf": [one, other]}


def _properties(one: Schema, other: Schema) -> Schema:
    shared = {name: _of_both(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **shared}


_MERGED: Mapping[str, Any] = {
    "type": lambda _one, _other: "integer",
    "required": lambda one, other: sorted({*one, *other}),
    "properties": _properties,
    "enum": lambda one, other: [each for each in one if each in other],
    **dict.fromkeys(
        ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max
    ),
    **dict.fromkeys(
        ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min
    ),
}

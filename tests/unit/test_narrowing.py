"""
What a new JSON Schema no longer accepts: named by field, and never missed.
"""

import copy
from itertools import count
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from consumer.contract.narrowing import narrowings


def found(old: Any, new: Any) -> list[str]:
    before, now = (TypeAdapter(each).json_schema() for each in (old, new))
    return [
        f"{each.path.removeprefix('.')}: {each.text}{'' if each.is_certain else ' (?)'}"
        for each in narrowings(before, now)
    ]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def model(__base__: type[BaseModel] = BaseModel, **fields: Any) -> type[BaseModel]:
    annotations = {
        name: each[0] if isinstance(each, tuple) else each for name, each in fields.items()
    }
    defaults = {name: each[1] for name, each in fields.items() if isinstance(each, tuple)}
    return type("Model", (__base__,), {"__annotations__": annotations, **defaults})


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]


class OldDog(BaseModel):
    kind: Literal["dog"]
    name: str


OldDog.__name__ = "Dog"


class Tree(BaseModel):
    value: int
    children: "list[Tree]" = []


class NarrowTree(BaseModel):
    value: Annotated[int, Field(ge=0)]
    children: "list[NarrowTree]" = []


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Pets = Annotated[Cat | OldDog, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (int, float),
        (int, int | None),
        (int, int | str),
        (int, Any),
        (Literal["a", "b"], Literal["b", "c", "a"]),
        (Literal["a", "b"], str),
        (Literal["a", 1], Literal["a"] | int),
        (bool, Literal[True, False]),
        (Annotated[int, Field(ge=2, lt=8)], Annotated[int, Field(gt=1, le=8)] | float),
        (Annotated[str, Field(min_length=2, max_length=3)], Annotated[str, Field(max_length=3)]),
        (tuple[int, str], list[int | str]),
        (dict[str, int], dict[str, float]),
        (model(a=int), model(a=int, b=(int, 0))),
        (model(a=int), model(a=(int, 0))),
        (model(a=int, b=int), model(a=int)),
        (model(Strict, a=int), model(a=int)),
        (model(a=model(b=int)), model(a=model(b=int) | None)),
        (Tree, Tree),
        (NarrowTree, Tree),
        (Cat, Pet),
        (Dog, Cat | Dog),
        (Pet, Pet),
        (Pet, Cat | Dog),
        (Pets, Pet),
    ],
    ids=map(str, count()),
)
def test_a_schema_that_accepts_more_has_no_finding(old, new):
    assert found(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (float, int, [": its type was number, and is integer"]),
        (Any, int, [": its type must be integer now"]),
        (int | None, int, [": its type was null, and is integer"]),
        (int | str | None, int | str, [": null is no longer accepted"]),
        (Literal["a", "b", "c"], Literal["a"], [": no longer accepts 2 of its 3 listed values"]),
        (str, Literal["a"], [": accepts only listed values now"]),
        (
            Literal["a", "long"],
            Annotated[str, Field(max_length=2)],
            [": no longer accepts one of its listed values: maxLength"],
        ),
        (int, Annotated[int, Field(ge=0)], [": has a narrower minimum"]),
        (
            Annotated[int, Field(le=9)],
            Annotated[int, Field(lt=9)],
            [": has a narrower maximum"],
        ),
        (int, Annotated[int, Field(multiple_of=2)], [": has another multipleOf"]),
        (str, Annotated[str, Field(max_length=2)], [": has a smaller maxLength"]),
        (str, Annotated[str, Field(min_length=2)], [": has a larger minLength"]),
        (str, Annotated[str, Field(pattern="^a")], [": now has a pattern"]),
        (
            Annotated[str, Field(pattern="^a")],
            Annotated[str, Field(pattern="^a|b")],
            [": cannot be compared: pattern (?)"],
        ),
        (list[int], set[int], [": has to have unique items now"]),
        (list[int | None], list[int], ["[]: its type was null, and is integer"]),
        (tuple[int, str], tuple[int, int], ["[1]: its type was string, and is integer"]),
        (dict[str, float], dict[str, int], ["*: its type was number, and is integer"]),
        (model(a=int), model(a=int, b=int), ["b: is required now"]),
        (model(a=(int, 0)), model(a=int), ["a: is required now"]),
        (model(Strict, a=int, b=int), model(Strict, a=int), ["b: is refused now"]),
        (
            model(a=int),
            model(Strict, a=int),
            [": fields that the contract does not name are refused now"],
        ),
        (
            model(a=list[model(b=model(c=int))]),
            model(a=list[model(b=model(c=str))]),
            ["a[].b.c: its type was integer, and is string"],
        ),
        (Tree, NarrowTree, ["value: has a narrower minimum"]),
        (Cat | Dog, Cat, ["kind: no longer accepts 1 of its 1 listed values"]),
        (Cat | Dog, Cat | Tree, [": Dog is no longer accepted"]),
        (Pet, Pets, ["name: is required now"]),
    ],
    ids=map(str, count()),
)
def test_a_schema_that_accepts_less_is_named_by_field(old, new, expected):
    assert found(old, new) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"not": {"type": "null"}}),
        ({"type": "array"}, {"contains": {"type": "null"}}),
        ({"type": "string"}, {"$ref": "https://example.org/schema.json"}),
        ({"type": "string"}, {"$ref": "#/definitions/missing"}),
        ({"const": "a"}, {"pattern": r"\p{L}"}),
        ({"const": 5}, {"oneOf": [{"minimum": 1}, {"minimum": 2}]}),
    ],
    ids=map(str, count()),
)
def test_a_keyword_that_cannot_be_compared_is_said_to_be_so(old, new):
    assert [each.is_certain for each in narrowings(old, new)] == [False]


def models_that_hold_each_other(last: str) -> dict[str, Any]:
    def reference(number: int) -> dict[str, str]:
        return {"$ref": f"#/$defs/M{number % 10}"}

    def definition(number: int) -> dict[str, Any]:
        fields = {
            f"f{step}": {"anyOf": [reference(number + step), {"type": "null"}]}
            for step in range(1, 8)
        }
        lists = {
            f"l{step}": {"type": "array", "items": reference(number * step)} for step in (1, 2)
        }
        union = {"u": {"anyOf": [reference(number + 1), reference(number + 3), {"type": "null"}]}}
        value = {"value": {"type": last if number == 9 else "integer"}}
        properties = fields | lists | union | value
        return {"type": "object", "title": f"M{number}", "properties": properties}

    return {"$defs": {f"M{number}": definition(number) for number in range(10)}, **reference(0)}


def test_models_that_hold_each_other_are_compared_once_for_each_pair():
    integers, texts = models_that_hold_each_other("integer"), models_that_hold_each_other("string")

    assert narrowings(integers, copy.deepcopy(integers)) == []
    found = narrowings(integers, texts)
    assert {each.text for each in found} == {"its type was integer, and is string"}
    assert len(found) < 1_000


NAMES = ("a", "b")
SCALARS: list[Any] = [None, True, False, 0, 1, 2, 3, 1.5, "", "a", "ab", "abc"]
VALUES: list[Any] = [
    *SCALARS,
    *([each] for each in (None, True, 0, 2, 1.5, "", "abc")),
    *([], [0, 1], [0, 0], ["a", 1], [[]], {}, [{}], [{"a": 1}]),
    *({"a": each} for each in SCALARS),
    *({"b": each} for each in (None, 1, "ab", [])),
    *({"a": each, "b": other} for each in (None, 1, "ab") for other in (0, "a", {})),
    *({"a": {"a": 1}}, {"a": {"b": "a"}}, {"c": 1}, {"a": 1, "c": "a"}, {"a": [1], "b": [""]}),
]

small = st.integers(0, 3)
numbers = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])},
    optional={
        "minimum": small,
        "maximum": small,
        "exclusiveMinimum": small,
        "exclusiveMaximum": small,
        "multipleOf": st.sampled_from([1, 2, 0.5]),
    },
)
texts = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={"minLength": small, "maxLength": small, "pattern": st.sampled_from(["^a", "b"])},
)
listed = st.lists(st.sampled_from(SCALARS), min_size=1, max_size=4, unique_by=repr)
plain = st.one_of(
    numbers,
    texts,
    st.sampled_from([{}, True, False, {"type": "null"}, {"type": "boolean"}]),
    st.sampled_from(
        [{"type": ["string", "null"]}, {"type": ["integer", "boolean"], "minimum": 1}]
    ),
    st.builds(lambda values: {"enum": values}, listed),
    st.sampled_from(SCALARS).map(lambda value: {"const": value}),
)


def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    counts = {"minItems": small, "maxItems": small, "uniqueItems": st.booleans()}
    array = {"type": st.just("array")}
    first = {"items": st.lists(inner, min_size=1, max_size=2)}
    arrays = st.fixed_dictionaries(array, optional={"items": inner, **counts})
    tuples = st.fixed_dictionaries(array | first, optional={"additionalItems": inner, **counts})
    # Each field is named: one that only the new schema names is no finding.
    objects = st.fixed_dictionaries(
        {
            "type": st.just("object"),
            "properties": st.fixed_dictionaries(dict.fromkeys(NAMES, inner)),
        },
        optional={
            "required": st.lists(st.sampled_from(NAMES), unique=True),
            "additionalProperties": inner | st.booleans(),
            "minProperties": small,
            "maxProperties": small,
            "propertyNames": texts,
        },
    )
    unions = st.builds(
        lambda keyword, parts: {keyword: parts},
        st.sampled_from(["anyOf", "oneOf", "allOf"]),
        st.lists(inner, min_size=1, max_size=3),
    )
    return arrays | tuples | objects | unions


schemas = st.recursive(plain, larger, max_leaves=6)


@st.composite
def changed(draw: st.DrawFn, schema: Any) -> Any:
    """*schema* with a few changes, so that the pair is often compatible."""
    change = draw(st.sampled_from(["same", "other", "union", "drop", "inside", "inside"]))
    if change == "same":
        return schema
    if change == "other" or not isinstance(schema, dict) or not schema:
        return draw(schemas)
    if change == "union":
        return {"anyOf": draw(st.permutations([schema, draw(schemas)]))}
    name = draw(st.sampled_from(sorted(schema)))
    if change == "drop":
        # The judge fails at `additionalItems` without a list of items.
        gone = {name, "additionalItems"}
        return {key: value for key, value in schema.items() if key not in gone}
    return {**schema, name: draw(inside(name, schema[name]))}


def inside(name: str, value: Any) -> st.SearchStrategy[Any]:
    if name == "properties":
        return st.fixed_dictionaries({key: changed(each) for key, each in value.items()})
    if name in {"anyOf", "oneOf", "allOf"}:
        return st.tuples(*map(changed, value)).map(list)
    if name in {"items", "additionalProperties"} and not isinstance(value, list):
        return changed(value)
    return st.just(value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_has_no_finding_accepts_every_value_that_was_accepted(data):
    old = data.draw(schemas, label="old")
    new = data.draw(changed(old), label="new")

    if narrowings(old, new):
        return

    before, now = Draft7Validator(old), Draft7Validator(new)
    assert [each for each in VALUES if before.is_valid(each) and not now.is_valid(each)] == []

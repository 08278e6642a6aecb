"""
Two JSON Schemas: what the new one no longer accepts of what the old one accepted. Pure.

It errs on the side of a finding: what it cannot decide is a finding that is not certain. An object
may have fields that a schema does not name; a new optional field is no finding, since no publisher
sent one under its name.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

from consumer.contract import keywords
from consumer.contract.alternatives import (
    ALSO_READ,
    Alternatives,
    Schema,
    Undecidable,
    constraints,
)
from consumer.contract.keywords import COMPARED, Finding, accepts_type, undecided, values_of

_MOST_AGAIN = 20
Compare: TypeAlias = Callable[[Any, Any], Iterable[Finding]]


def narrowings(
    old: Any, new: Any, *, old_document: Any = None, new_document: Any = None
) -> list[Finding]:
    """
    What the schema *new* no longer accepts of what *old* accepted.

    References are looked up in the documents; by default a schema is its own document.
    """
    before = Alternatives(old if old_document is None else old_document)
    now = Alternatives(new if new_document is None else new_document)
    return _Comparison(before, now).compare(old, new)


class _Comparison:
    def __init__(self, old: Alternatives, new: Alternatives) -> None:
        self._old = old
        self._new = new
        # With both schemas, so that no other object gets their ids.
        self._known: dict[tuple[Any, ...], tuple[Any, Any, list[Finding]]] = {}

    def compare(self, old: Any, new: Any) -> list[Finding]:
        try:
            before, now = self._old.target(old), self._new.target(new)
            if before == now and "$ref" not in str(now):
                return []
            return self._once(self._alternatives, before, now)
        except Undecidable as undecidable:
            return [undecided(undecidable.keyword)]

    def _once(self, work: Compare, old: Any, new: Any) -> list[Finding]:
        """
        What *work* finds, which is done once for each pair.

        While it is compared a pair counts as compatible: a model may be a part of itself.
        """
        key = work.__name__, id(old), id(new)
        if key in self._known:
            found = self._known[key][2]
            # Models that hold each other have more paths than anyone could read.
            return found if len(found) <= _MOST_AGAIN else found[:1]
        self._known[key] = old, new, []
        started = len(self._known)
        found = list(work(old, new))
        if found:
            self._known[key] = old, new, found
            # What is compatible only if this is has to be compared again.
            for other, (_, _, others) in list(self._known.items())[started:]:
                if not others:
                    del self._known[other]
        return found

    def _alternatives(self, old: Any, new: Any) -> list[Finding]:
        accepted = self._new.of(new)
        exclusive = self._new.are_exclusive(new)
        if not exclusive and not all(map(constraints, accepted)):
            return []
        found = [
            self._one_of(each, accepted, exclusive=exclusive)
            for before in self._old.of(old)
            for each in _by_value(before, accepted)
        ]
        return list(dict.fromkeys(chain.from_iterable(found)))

    def _one_of(self, old: Schema, accepted: list[Schema], *, exclusive: bool) -> list[Finding]:
        """Findings unless one of the *accepted* alternatives accepts all of *old*."""
        if not accepted:
            return [Finding("", "accepts no value any more")]
        trials: list[tuple[Schema, list[Finding]]] = []
        for new in _candidates(old, accepted):
            trials.append((new, self._once(self._findings, old, new)))
            if not trials[-1][1]:
                others = [other for other in accepted if other is not new]
                if exclusive and not all(_are_apart(old, other) for other in others):
                    return [undecided("oneOf")]
                return []
        return _closest(old, trials)

    def _findings(self, old: Schema, new: Schema) -> Iterator[Finding]:
        kind, wanted = old.get("type"), new.get("type")
        if values_of(old) is None and not accepts_type(wanted, kind):
            was = f"was {kind}, and is {wanted}" if kind else f"must be {wanted} now"
            yield Finding("", f"its type {was}")
            return
        yield from _uncompared(old, new)
        if values_of(old) is not None or values_of(new) is not None:
            yield from keywords.listed(old, new)
            return
        if kind in {*keywords.NUMBERS, None}:
            yield from keywords.numbers(old, new)
        if kind in {"string", None}:
            yield from keywords.texts(old, new)
        if kind in {"array", None}:
            yield from self._arrays(old, new)
        if kind in {"object", None}:
            yield from self._objects(old, new)

    def _arrays(self, old: Schema, new: Schema) -> Iterator[Finding]:
        yield from keywords.sizes(old, new, smallest="minItems", largest="maxItems")
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            yield Finding("", "has to have unique items now")
        (before, rest_before), (now, rest_now) = keywords.items(old), keywords.items(new)
        for place in range(max(len(before), len(now))):
            one = before[place] if place < len(before) else rest_before
            other = now[place] if place < len(now) else rest_now
            if place < old.get("maxItems", place + 1):
                yield from self._below(f"[{place}]", one, other)
        if old.get("maxItems", len(before) + 1) > len(before):
            yield from self._below("[]", rest_before, rest_now)

    def _objects(self, old: Schema, new: Schema) -> Iterator[Finding]:
        yield from keywords.sizes(old, new, smallest="minProperties", largest="maxProperties")
        sent = set(old.get("required", ()))
        for name in sorted(set(new.get("required", ())) - sent):
            if sent.isdisjoint(_other_names(new.get("properties", {}).get(name))):
                yield Finding(f".{name}", "is required now")
        yield from self._named_fields(old, new)
        yield from self._other_fields(old, new)
        yield from self._patterns(old, new)
        if "propertyNames" in new:
            names = {"allOf": [{"type": "string"}, old.get("propertyNames", True)]}
            yield from self._below(".*", names, new["propertyNames"])

    def _named_fields(self, old: Schema, new: Schema) -> Iterator[Finding]:
        before, named = old.get("properties", {}), new.get("properties", {})
        others = {other: schema for schema in named.values() for other in _other_names(schema)}
        now = others | named
        for name, schema in before.items():
            if name in now:
                yield from self._below(f".{name}", schema, now[name])
            elif "patternProperties" in new:
                yield undecided("patternProperties")
            elif schema is not False and _others(new) is False:
                yield Finding(f".{name}", "is refused now")
            else:
                yield from self._below(f".{name}", schema, _others(new))
        for name in sorted(now.keys() - before.keys()):
            unnamed = _others(old)
            if not isinstance(unnamed, bool) and constraints(unnamed):
                yield from self._below(f".{name}", unnamed, now[name])

    def _other_fields(self, old: Schema, new: Schema) -> Iterator[Finding]:
        if _others(old) is False:
            return
        if _others(new) is False:
            yield Finding("", "fields that the contract does not name are refused now")
        else:
            yield from self._below(".*", _others(old), _others(new))

    def _patterns(self, old: Schema, new: Schema) -> Iterator[Finding]:
        before, now = old.get("patternProperties", {}), new.get("patternProperties", {})
        if before.keys() != now.keys():
            yield undecided("patternProperties")
            return
        for pattern, schema in before.items():
            yield from self._below(".*", schema, now[pattern])

    def _below(self, path: str, old: Any, new: Any) -> Iterator[Finding]:
        for finding in self.compare(old, new):
            yield finding.below(path)


def _candidates(old: Schema, accepted: list[Schema]) -> list[Schema]:
    """
    The alternatives of which one may accept *old*: first the model of its name.

    If there is such a model, no other one is meant; each may be as large as the whole document.
    """
    title = old.get("title")
    named = [each for each in accepted if title and each.get("title") == title]
    if not named or "properties" not in old:
        return accepted
    return [*named, *(each for each in accepted if "properties" not in each)]


def _are_apart(old: Schema, new: Schema) -> bool:
    """Whether no value can be both, by their types or by a field that tells them apart."""
    one, other = old.get("type"), new.get("type")
    if one and other and not (accepts_type(one, other) or accepts_type(other, one)):
        return True
    ours, theirs = old.get("properties", {}), new.get("properties", {})
    return any(_tell_apart(ours[name], theirs[name]) for name in ours.keys() & theirs.keys())


def _tell_apart(one: Any, other: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    before, now = values_of(one), values_of(other)
    return bool(before and now) and not any(value in (now or ()) for value in before or ())


def _closest(old: Schema, trials: list[tuple[Schema, list[Finding]]]) -> list[Finding]:
    """The findings of the alternative that was meant, if it can be told; else a single one."""
    kind, title = old.get("type"), old.get("title")
    named = [found for new, found in trials if title and new.get("title") == title]
    same = [found for new, found in trials if accepts_type(new.get("type"), kind)]
    if len(trials) == 1:
        return trials[0][1]
    if len(named) == 1 or len(same) == 1:
        return (named if len(named) == 1 else same)[0]
    uncertain = [found for _, found in trials if not any(each.is_certain for each in found)]
    if uncertain:
        return uncertain[0]
    return [Finding("", f"{title or kind or 'one of its alternatives'} is no longer accepted")]


def _by_value(old: Schema, accepted: list[Schema]) -> list[Schema]:
    """*old*, or one schema for each of its listed values if there are several alternatives."""
    if len(accepted) < 2 or "enum" not in old or "const" in old:  # noqa: PLR2004
        return [old]
    return [{"const": value} for value in old["enum"]]


def _uncompared(old: Schema, new: Schema) -> Iterator[Finding]:
    for name in constraints(new):
        # With a reference the same text may mean another schema.
        if name not in COMPARED and (old.get(name) != new[name] or "$ref" in str(new[name])):
            yield undecided(name)


def _other_names(schema: Any) -> list[str]:
    found: list[str] = schema.get(ALSO_READ, []) if isinstance(schema, dict) else []
    return found


def _others(schema: Schema) -> Any:
    """The schema of fields that *schema* does not name."""
    return schema.get("additionalProperties", True)

"""
Exchanges that are declared together: reading MQ_EXCHANGES, and which of them contradict. Pure.

    MQ_EXCHANGES=vitals:fanout,by_unit:headers
    MQ_EXCHANGES=[{"name": "vitals", "kind": "fanout", "bindings": ["health.vitals.#"]}]

An item is a name, which may end with a colon and the kind, or a JSON object with the arguments of
an `Exchange`. Objects of *bindings* have the arguments of a `Binding`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import PlainValidator
from pydantic_settings import NoDecode

from outbox.errors import ConfigurationError
from outbox.exchange import Binding, Exchange
from outbox.setting_types import items

Value = TypeVar("Value")

_OF_EXCHANGE = frozenset({"name", "kind", "alternate", "bindings"})
_OF_BINDING = frozenset({"exchange", "pattern", "headers", "match"})


def read(value: object) -> tuple[Exchange, ...]:
    """
    Return the exchanges of the setting's *value*.

    Raises ValueError, which names the item by its number and never shows it.
    """
    found = []
    listed = items(value)
    if not isinstance(listed, Sequence):
        raise ValueError("must be a JSON list, or items separated by commas")  # noqa: TRY004 - pydantic's
    for number, item in enumerate(listed, 1):
        try:
            found.append(_exchange(item))
        except ConfigurationError as error:
            raise ValueError(f"item {number}: {error}") from None
    return tuple(found)


def _exchange(item: object) -> Exchange:
    match item:
        case Exchange():
            return item
        case str():
            name, colon, kind = item.rpartition(":")
            fields = {"name": name, "kind": kind} if colon else {"name": item}
            return _made(Exchange, fields, _OF_EXCHANGE)
        case Mapping():
            bindings = item.get("bindings", ())
            if isinstance(bindings, list):
                item = {**item, "bindings": list(map(_binding, bindings))}
            return _made(Exchange, item, _OF_EXCHANGE)
        case _:
            raise ConfigurationError("must be NAME, NAME:KIND or a JSON object")


def _binding(item: object) -> object:
    return _made(Binding, item, _OF_BINDING) if isinstance(item, Mapping) else item


def _made(kind: type[Value], fields: Mapping[str, Any], known: frozenset[str]) -> Value:
    if not known.issuperset(fields):
        raise ConfigurationError(f"may have {', '.join(sorted(known))} only")
    first = "name" if kind is Exchange else "exchange"
    if first not in fields:
        raise ConfigurationError(f"{first} is missing")
    return kind(**fields)


def problems(
    exchanges: Sequence[Exchange], *, main_exchange: str, dlx_exchange: str
) -> Iterator[str]:
    """Yield what contradicts in *exchanges*, which are declared beside the configured ones."""
    for name, number in Counter(each.name for each in exchanges).items():
        if number > 1:
            yield f"exchange {name} is declared {number} times"
    for each in exchanges:
        if each.name == dlx_exchange:
            yield f"exchange {each.name} is that of MQ_DLX_EXCHANGE, which is declared as it is"
        if each.name == main_exchange and each.kind != "topic":
            yield f"exchange {each.name} is that of MQ_MAIN_EXCHANGE, whose kind is topic"
    kinds = kinds_of(exchanges, main_exchange=main_exchange)
    for each in exchanges:
        yield from binding_problems(f"exchange {each.name}", each.bindings, kinds)


def kinds_of(exchanges: Iterable[Exchange], *, main_exchange: str) -> dict[str, str]:
    """Return the kinds of *exchanges* and of the main exchange by their names."""
    return {main_exchange: "topic", **{each.name: each.kind for each in exchanges}}


def binding_problems(
    where: str, bindings: Iterable[str | Binding], kinds: Mapping[str, str]
) -> Iterator[str]:
    """Yield the *bindings* that exchanges of these *kinds* cannot follow; others are not known."""
    for each in bindings:
        if isinstance(each, str) or each.exchange not in kinds:
            continue
        kind = kinds[each.exchange]
        at = f"{where}: binding to exchange {each.exchange}"
        if each.headers is not None and kind != "headers":
            yield f"{at}: headers need a headers exchange, and it is a {kind} exchange"
        if each.pattern is not None and kind in {"headers", "fanout"}:
            yield f"{at}: a {kind} exchange reads no pattern"
        if each.pattern is None and kind == "direct":
            yield f"{at}: a direct exchange needs a pattern, the routing key"


def together(
    where: str,
    own: Sequence[Exchange],
    configured: Sequence[Exchange],
    *,
    main_exchange: str,
    dlx_exchange: str,
) -> list[Exchange]:
    """
    Return the exchanges of MQ_EXCHANGES with the *own* ones of a consumer.

    Raises ConfigurationError, which begins with *where*, if they contradict.
    """
    both = [*configured, *(each for each in own if each not in configured)]
    found = list(problems(both, main_exchange=main_exchange, dlx_exchange=dlx_exchange))
    if found:
        raise ConfigurationError("\n".join(f"{where}: {each}" for each in found))
    return both


Exchanges: TypeAlias = Annotated[
    tuple[Exchange, ...],
    NoDecode,
    PlainValidator(read, json_schema_input_type=tuple[str | dict[str, Any], ...]),
]

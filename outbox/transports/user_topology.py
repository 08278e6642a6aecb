"""
Exchanges and bindings as users declare them, as values for a broker: pure.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from outbox import exchange as declaration
from outbox.transports.topology import (
    Binding,
    Exchange,
    ExchangeBinding,
    HeaderPattern,
    Topology,
    by,
)

ALL = "#"
"""The pattern of a binding that chooses nothing; a fanout exchange does not read it."""

Bindings = Iterable[str | declaration.Binding]


def with_exchanges(
    base: Topology, exchanges: Sequence[declaration.Exchange], *, main_exchange: str
) -> Topology:
    """Return *base* with *exchanges* and their bindings; one of them may be the main exchange."""
    alternates = {each.name: each.alternate for each in exchanges}
    named = {each.name for each in base.exchanges}
    return replace(
        base,
        exchanges=[
            *(
                replace(each, alternate=alternates.get(each.name, each.alternate))
                for each in base.exchanges
            ),
            *(
                Exchange(each.name, each.kind, each.alternate)
                for each in exchanges
                if each.name not in named
            ),
        ],
        exchange_bindings=[
            *base.exchange_bindings,
            *(
                binding
                for each in exchanges
                for binding in exchange_bindings(each.name, each.bindings, main_exchange)
            ),
        ],
    )


def described(topology: Topology, *, beside: Collection[str] = ()) -> list[str]:
    """Return a line for each exchange of *topology* but *beside*, and for what binds them."""
    return [
        *(
            f"exchange {each.name} ({each.kind}"
            f"{f', alternate {each.alternate}' if each.alternate else ''})"
            for each in topology.exchanges
            if each.name not in beside
        ),
        *(
            f"exchange {each.destination} gets {by(each.pattern, each.headers)} of exchange "
            f"{each.source}"
            for each in topology.exchange_bindings
        ),
    ]


def queue_bindings(queue: str, bindings: Bindings, main_exchange: str) -> list[Binding]:
    """Return what binds *queue*; a string is a pattern on the main exchange."""
    return [
        Binding(each.exchange, queue, _pattern(each), _headers(each), each.match)
        for each in _of_exchanges(bindings, main_exchange)
    ]


def exchange_bindings(
    destination: str, bindings: Bindings, main_exchange: str
) -> list[ExchangeBinding]:
    """Return what binds the exchange *destination*."""
    return [
        ExchangeBinding(each.exchange, destination, _pattern(each), _headers(each), each.match)
        for each in _of_exchanges(bindings, main_exchange)
    ]


def _of_exchanges(bindings: Bindings, main_exchange: str) -> Iterator[declaration.Binding]:
    for each in bindings:
        yield declaration.Binding(main_exchange, each) if isinstance(each, str) else each


def _pattern(binding: declaration.Binding) -> str:
    if binding.headers is not None:
        return ""
    return ALL if binding.pattern is None else binding.pattern


def _headers(binding: declaration.Binding) -> HeaderPattern | None:
    return None if binding.headers is None else dict(binding.headers)

"""
What is declared in the server: exchanges, queues and bindings, compared and routed. Pure.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from outbox.errors import TopologyMismatch
from outbox.transports.base import argument_mismatch, raise_together
from outbox.transports.inspection import (
    Act,
    Answer,
    BindingOf,
    Consuming,
    Permission,
    Publishing,
)
from outbox.transports.matching import takes
from outbox.transports.routes import RouteState
from outbox.transports.topology import Arguments, Binding, Exchange, Queue, Topology

_MOST_ROUTES = 10_000


_KINDS = frozenset({"topic", "direct", "fanout"})


@dataclass(frozen=True, slots=True)
class Target:
    """A queue that a message goes to, and after how many milliseconds it is dead-lettered."""

    queue: str
    ttl: int | None


@dataclass(frozen=True, slots=True)
class Declarations:
    """
    Everything that is declared, as of one *version*.

    Args:
        exchanges: The kind of each.
        queues: The arguments of each.

    """

    version: bytes
    exchanges: Mapping[str, str]
    queues: Mapping[str, Arguments]
    bindings: Collection[Binding]
    _routes: dict[tuple[str, str], tuple[Target, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, reply: tuple[bytes, list[bytes], list[bytes], list[bytes]]) -> "Declarations":
        """Return the *reply* of the script."""
        version, exchanges, queues, bindings = reply
        return cls(
            version=version,
            exchanges={name.decode(): kind.decode() for name, kind in _pairs(exchanges)},
            queues={name.decode(): json.loads(arguments) for name, arguments in _pairs(queues)},
            bindings=frozenset(Binding(*json.loads(each)) for each in bindings),
        )

    def targets(self, exchange: str, routing_key: str) -> tuple[Target, ...]:
        """Return the queues that a message goes to; none if the exchange does not exist."""
        asked = (exchange, routing_key)
        if (known := self._routes.get(asked)) is not None:
            return known
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        found = tuple(
            Target(queue, _milliseconds(self.queues[queue])) for queue in self._route(*asked)
        )
        self._routes[asked] = found
        return found

    def routes(self, exchange: str, keys: Collection[str]) -> dict[str, RouteState]:
        """Return, for each of *keys*, whether *exchange* leads it to a queue."""
        if exchange and exchange not in self.exchanges:
            return dict.fromkeys(keys, RouteState.NO_EXCHANGE)
        return {
            key: RouteState.BOUND if self.targets(exchange, key) else RouteState.NO_QUEUE
            for key in keys
        }

    def answers(self, acts: Sequence[Act]) -> list[Answer]:
        """Return an answer to each of *acts* for a user with all rights."""
        return [
            Answer(act, Permission.GRANTED if self._exists(act) else Permission.MISSING)
            for act in acts
        ]

    def verify(self, topology: Topology) -> None:
        """Raise TopologyMismatch, with a line for each entity that is missing or differs."""
        raise_together(list(self._problems(topology)))

    def additions(self, topology: Topology) -> list[str]:
        """
        Return what of *topology* is missing, as arguments of the script that declares it.

        Raises TopologyMismatch with a line for each entity that has other arguments, and for a
        binding whose exchange or queue neither exists nor is in *topology*.
        """
        raise_together(list(_unsupported(topology)))
        exchanges = [each for each in topology.exchanges if each.name not in self.exchanges]
        queues = [each for each in topology.queues if each.name not in self.queues]
        there = Topology(
            [each for each in topology.exchanges if each.name in self.exchanges],
            [each for each in topology.queues if each.name in self.queues],
        )
        self.verify(there)
        bindings = [each for each in topology.bindings if each not in self.bindings]
        names = {*(each.name for each in exchanges), *(each.name for each in queues)}
        for binding in bindings:
            if binding.exchange not in {*self.exchanges, *names}:
                raise _missing("exchange", binding.exchange)
            if binding.queue not in {*self.queues, *names}:
                raise _missing("queue", binding.queue)
        return [
            text
            for words in (
                *(("exchange", each.name, each.kind) for each in exchanges),
                *(("queue", each.name, _text(each.arguments)) for each in queues),
                *(("binding", binding_text(each), "") for each in bindings),
            )
            for text in words
        ]

    def _problems(self, topology: Topology) -> Iterator[TopologyMismatch]:
        yield from _unsupported(topology)
        for exchange in topology.exchanges:
            yield from self._of_exchange(exchange)
        for queue in topology.queues:
            yield from self._of_queue(queue)

    def _exists(self, act: Act) -> bool:
        match act:
            case Publishing(exchange):
                return not exchange or exchange in self.exchanges
            case Consuming(queue):
                return queue in self.queues
            case BindingOf(exchange, queue):
                return exchange in self.exchanges and queue in self.queues
            case _:
                assert_never(act)

    def _of_exchange(self, exchange: Exchange) -> Iterator[TopologyMismatch]:
        found = self.exchanges.get(exchange.name)
        if found is None:
            yield _missing("exchange", exchange.name)
        elif found != exchange.kind:
            yield argument_mismatch("exchange", exchange.name, "type")

    def _of_queue(self, queue: Queue) -> Iterator[TopologyMismatch]:
        found = self.queues.get(queue.name)
        if found is None:
            yield _missing("queue", queue.name)
        elif differences := found.items() ^ queue.arguments.items():
            argument = min(argument for argument, _ in differences)
            yield argument_mismatch("queue", queue.name, argument)

    def _route(self, exchange: str, routing_key: str) -> Sequence[str]:
        if not exchange:
            return [routing_key] if routing_key in self.queues else []
        kind = self.exchanges.get(exchange, "")
        return sorted(
            {
                binding.queue
                for binding in self.bindings
                if binding.exchange == exchange
                and binding.queue in self.queues
                and takes(kind, binding.pattern, routing_key)
            }
        )


def _unsupported(topology: Topology) -> Iterator[TopologyMismatch]:
    """Yield an error for each entity that chooses in a way that no stream can follow."""
    for exchange in topology.exchanges:
        if exchange.kind not in _KINDS or exchange.alternate:
            odd = (
                "alternate exchanges" if exchange.kind in _KINDS else f"{exchange.kind} exchanges"
            )
            yield TopologyMismatch(f"exchange {exchange.name}: Redis Streams have no {odd}")
    for binding in topology.bindings:
        if binding.headers:
            yield TopologyMismatch(f"queue {binding.queue}: Redis Streams choose by no headers")
    for each in topology.exchange_bindings:
        yield TopologyMismatch(
            f"exchange {each.destination}: Redis Streams bind no exchange to another one"
        )


def binding_text(binding: Binding) -> str:
    """Return *binding* as the server stores it."""
    return json.dumps([binding.exchange, binding.queue, binding.pattern])


def _text(arguments: Arguments) -> str:
    return json.dumps(arguments, sort_keys=True)


def _milliseconds(arguments: Arguments) -> int | None:
    ttl = arguments.get("x-message-ttl")
    return None if ttl is None else int(ttl)


def _missing(kind: str, name: str) -> TopologyMismatch:
    return TopologyMismatch(f"{kind} {name} does not exist")


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)

"""
Declaring exchanges and queues in RabbitMQ, and comparing existing ones.

The protocol can compare only by a declaration. For an entity that exists it changes nothing, and
the broker refuses it if an argument differs (406, whose text names the argument). RabbitMQ
compares every argument of the declaration, but RabbitMQ 3 not x-delivery-limit, and none compares
settings of policies. The user needs the
permission to configure the entity, even if it exists.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import argument_mismatch, raise_together
from outbox.transports.rabbitmq.connection import connection_errors
from outbox.transports.topology import Binding, Exchange, ExchangeBinding, Queue, Topology

Entity: TypeAlias = Exchange | Queue
Result = TypeVar("Result")

PLUGINS = {"x-consistent-hash": "rabbitmq_consistent_hash_exchange"}
"""The plugin that brings a type of exchange."""

_DIFFERS = re.compile(r"inequivalent arg '([\w-]+)'")
_REFUSED = re.compile(r"invalid arg '([\w-]+)'")


class NoPermission(TopologyMismatch):
    """The broker's user has no permission to declare the entity."""


def entities(topology: Topology) -> list[Entity]:
    """Return the entities of *topology*, exchanges first, since queues dead-letter to them."""
    return [*topology.exchanges, *topology.queues]


async def for_each(
    topology: Topology, act: Callable[[Entity], Awaitable[Result]]
) -> list[tuple[Entity, Result]]:
    """
    Call *act* for each entity of *topology*, and return its results.

    Raises one TopologyMismatch with all problems, after the last entity.
    """
    results: list[tuple[Entity, Result]] = []
    problems: list[TopologyMismatch] = []
    for entity in entities(topology):
        try:
            results.append((entity, await act(entity)))
        except TopologyMismatch as problem:
            problems.append(problem)
    raise_together(problems)
    return results


def describe(entity: Entity) -> str:
    """Return the kind and name of *entity*, for error messages."""
    return f"{'exchange' if isinstance(entity, Exchange) else 'queue'} {entity.name}"


def missing_end(binding: Binding | ExchangeBinding) -> str:
    """Return both ends of a *binding*, for an error that tells not which one is missing."""
    match binding:
        case Binding(exchange, queue):
            return f"queue {queue} or exchange {exchange}"
        case ExchangeBinding(source, destination):
            return f"exchange {destination} or exchange {source}"


class DeclarationChannel:
    """
    Opens a channel of *connection* for declarations.

    They share it, since a process declares dozens of entities every few seconds. A refused
    declaration closes the channel, so that the next one opens another.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the broker has closed the connection for a type that it does not know."""
        transport = self._connection.transport
        closing = transport and transport.connection.closing
        if not closing or not closing.done() or closing.cancelled():
            return False
        return isinstance(closing.exception(), aiormq.exceptions.ConnectionCommandInvalid)

    @asynccontextmanager
    async def of(self, subject: str) -> AsyncIterator[Any]:
        """
        Yield the channel for one declaration of *subject*.

        Raises TopologyMismatch and BrokerUnavailable.
        """
        errors = aiormq.exceptions
        channel, self._channel = self._channel, None
        with connection_errors(subject):
            try:
                if channel is None:
                    channel = await self._connection.channel(publisher_confirms=False)
                yield await channel.get_underlay_channel()
            except errors.ChannelNotFoundEntity:
                raise TopologyMismatch(f"{subject} does not exist") from None
            except errors.ChannelAccessRefused:
                raise NoPermission(f"{subject}: the broker's user has no permission") from None
            except errors.ChannelClosed as error:
                raise _mismatch(subject, str(error)) from None
        self._channel = channel


async def declare(channel: DeclarationChannel, entity: Entity, *, passive: bool = False) -> None:
    """
    Declare *entity*; with *passive* only check that an entity of its name exists.

    Raises TopologyMismatch if it has other arguments, or does not exist, or the broker does not
    know its type.
    """
    try:
        await _declare(channel, entity, passive=passive)
    except BrokerUnavailable:
        if isinstance(entity, Exchange) and channel.is_refused:
            raise TopologyMismatch(_unknown_type(entity), argument=entity.kind) from None
        raise


async def _declare(channel: DeclarationChannel, entity: Entity, *, passive: bool) -> None:
    async with channel.of(describe(entity)) as opened:
        match entity:
            case Exchange(name, kind):
                await opened.exchange_declare(
                    name,
                    exchange_type=kind,
                    durable=True,
                    arguments=dict(entity.declared_arguments),
                    passive=passive,
                )
            case Queue(name, arguments):
                await opened.queue_declare(
                    name, durable=True, arguments=dict(arguments), passive=passive
                )


async def compare(channel: DeclarationChannel, entity: Entity) -> bool:
    """
    Check that *entity* exists with these arguments, without creating it.

    Returns False if the user has no permission to compare the arguments. From RabbitMQ 4.3 on a
    user without any permission on the entity does not even learn whether it exists.
    Raises TopologyMismatch.
    """
    try:
        await declare(channel, entity, passive=True)
        await declare(channel, entity)
    except NoPermission:
        return False
    return True


def _unknown_type(exchange: Exchange) -> str:
    plugin = PLUGINS.get(exchange.kind)
    enabling = f": run rabbitmq-plugins enable {plugin} on each of its nodes" if plugin else ""
    return f"{describe(exchange)}: the broker does not know its type {exchange.kind}{enabling}"


def _mismatch(subject: str, text: str) -> TopologyMismatch:
    """Return the error for the broker's *text*: the argument that differs, without its values."""
    if found := _DIFFERS.search(text):
        kind, _, name = subject.partition(" ")
        return argument_mismatch(kind, name, found[1])
    if found := _REFUSED.search(text):
        return TopologyMismatch(f"{subject}: the broker refuses {found[1]}", argument=found[1])
    return TopologyMismatch(f"{subject} exists with other arguments")

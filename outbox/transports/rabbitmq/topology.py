"""
Declaring exchanges and queues in RabbitMQ, and comparing existing ones.

The protocol can compare only by a declaration. For an entity that exists it changes nothing, and
the broker refuses it if an argument differs (406, whose text names the argument). RabbitMQ
compares every argument of the declaration, but no setting of policies. The user needs the
permission to configure the entity, even if it exists.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiormq
from aio_pika.abc import AbstractConnection

from outbox.errors import TopologyMismatch
from outbox.transports.base import argument_mismatch
from outbox.transports.rabbitmq.connection import connection_errors
from outbox.transports.topology import Exchange, Queue, Topology

Entity: TypeAlias = Exchange | Queue

_DIFFERS = re.compile(r"inequivalent arg '([\w-]+)'")
_REFUSED = re.compile(r"invalid arg '([\w-]+)'")


class NoPermission(TopologyMismatch):
    """The broker's user has no permission to declare the entity."""


def entities(topology: Topology) -> list[Entity]:
    """Return the entities of *topology*, exchanges first, since queues dead-letter to them."""
    return [*topology.exchanges, *topology.queues]


def describe(entity: Entity) -> str:
    """Return the kind and name of *entity*, for error messages."""
    return f"{'exchange' if isinstance(entity, Exchange) else 'queue'} {entity.name}"


async def declare(
    connection: AbstractConnection, entity: Entity, *, passive: bool = False
) -> None:
    """
    Declare *entity*; with *passive* only check that an entity of its name exists.

    Raises TopologyMismatch if it has other arguments, or does not exist.
    """
    async with channel_for(connection, describe(entity)) as channel:
        match entity:
            case Exchange(name, kind):
                await channel.exchange_declare(
                    name, exchange_type=kind, durable=True, passive=passive
                )
            case Queue(name, arguments):
                await channel.queue_declare(
                    name, durable=True, arguments=dict(arguments), passive=passive
                )


async def compare(connection: AbstractConnection, entity: Entity) -> bool:
    """
    Check that *entity* exists with these arguments, without creating it.

    Returns False if the user has no permission to compare the arguments.
    Raises TopologyMismatch.
    """
    await declare(connection, entity, passive=True)
    try:
        await declare(connection, entity)
    except NoPermission:
        return False
    return True


@asynccontextmanager
async def channel_for(connection: AbstractConnection, subject: str) -> AsyncIterator[Any]:
    """
    Open a channel for one declaration of *subject*: a refused declaration closes the channel.

    Raises TopologyMismatch and BrokerUnavailable.
    """
    errors = aiormq.exceptions
    with connection_errors(subject):
        try:
            channel = await connection.channel(publisher_confirms=False)
            yield await channel.get_underlay_channel()
            await channel.close()
        except errors.ChannelNotFoundEntity:
            raise TopologyMismatch(f"{subject} does not exist") from None
        except errors.ChannelAccessRefused:
            raise NoPermission(f"{subject}: the broker's user has no permission") from None
        except errors.ChannelClosed as error:
            raise _mismatch(subject, str(error)) from None


def _mismatch(subject: str, text: str) -> TopologyMismatch:
    """Return the error for the broker's *text*: the argument that differs, without its values."""
    if found := _DIFFERS.search(text):
        kind, _, name = subject.partition(" ")
        return argument_mismatch(kind, name, found[1])
    if found := _REFUSED.search(text):
        return TopologyMismatch(f"{subject}: the broker refuses {found[1]}", argument=found[1])
    return TopologyMismatch(f"{subject} exists with other arguments")

"""
Declaring exchanges and queues in RabbitMQ, and comparing those that exist.

The only comparison that the protocol has is a declaration: of something that exists it changes
nothing, and is refused if an argument differs (406, whose text names the argument). RabbitMQ
compares every argument, and none of what policies set. It takes a user who may configure the
thing, also where it exists.
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

Thing: TypeAlias = Exchange | Queue

_DIFFERS = re.compile(r"inequivalent arg '([\w-]+)'")
_REFUSED = re.compile(r"invalid arg '([\w-]+)'")


class NoPermission(TopologyMismatch):
    """The broker's user may not declare it."""


def entities(topology: Topology) -> list[Thing]:
    """What *topology* declares, exchanges first, since queues dead-letter to them."""
    return [*topology.exchanges, *topology.queues]


def describe(thing: Thing) -> str:
    """What errors call *thing*."""
    return f"{'exchange' if isinstance(thing, Exchange) else 'queue'} {thing.name}"


async def declare(connection: AbstractConnection, thing: Thing, *, passive: bool = False) -> None:
    """
    Make *thing* exist, or with *passive* only ask whether something of its name does.

    Raises TopologyMismatch if it has other arguments, or is not there.
    """
    async with channel_for(connection, describe(thing)) as channel:
        match thing:
            case Exchange(name, kind):
                await channel.exchange_declare(
                    name, exchange_type=kind, durable=True, passive=passive
                )
            case Queue(name, arguments):
                await channel.queue_declare(
                    name, durable=True, arguments=dict(arguments), passive=passive
                )


async def compared(connection: AbstractConnection, thing: Thing) -> bool:
    """
    Check that *thing* exists as it is, without making it.

    Returns False if its arguments could not be compared, for want of a permission.
    Raises TopologyMismatch.
    """
    await declare(connection, thing, passive=True)
    try:
        await declare(connection, thing)
    except NoPermission:
        return False
    return True


@asynccontextmanager
async def channel_for(connection: AbstractConnection, what: str) -> AsyncIterator[Any]:
    """
    A channel for one declaration of *what*: a refused one closes it.

    Raises TopologyMismatch and BrokerUnavailable.
    """
    errors = aiormq.exceptions
    with connection_errors(what):
        try:
            channel = await connection.channel(publisher_confirms=False)
            yield await channel.get_underlay_channel()
            await channel.close()
        except errors.ChannelNotFoundEntity:
            raise TopologyMismatch(f"{what} does not exist") from None
        except errors.ChannelAccessRefused:
            raise NoPermission(f"{what}: the broker's user has no permission") from None
        except errors.ChannelClosed as error:
            raise _mismatch(what, str(error)) from None


def _mismatch(what: str, text: str) -> TopologyMismatch:
    """What the broker's *text* says of the argument that differs, without its values."""
    if found := _DIFFERS.search(text):
        kind, _, name = what.partition(" ")
        return argument_mismatch(kind, name, found[1])
    if found := _REFUSED.search(text):
        return TopologyMismatch(f"{what}: the broker refuses {found[1]}", argument=found[1])
    return TopologyMismatch(f"{what} exists with other arguments")

"""
The command `consumer scale`: another number of partitions, while processes work.
"""

import asyncio
from collections.abc import Callable

from consumer import assembly, checks
from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.storage.generations import State
from consumer.storage.partitions import Partitions, Shared
from outbox.database import migrate, row_access
from outbox.errors import ConfigurationError

Say = Callable[[str], None]


async def scale(
    consumer: Consumer,
    settings: ConsumerSettings,
    partitions: int,
    say: Say,
    stop: asyncio.Event,
) -> bool:
    """
    Give *consumer* so many *partitions*; calls *say* with each step, and ends early after *stop*.

    Returns whether it has them. Raises ConfigurationError, SchemaMismatch, TopologyMismatch,
    DatabaseUnavailable and BrokerUnavailable; the next call goes on where this one has ended.
    """
    _check(consumer, settings)
    async with assembly.database(consumer, settings) as engine:
        await assembly.expectation(consumer, settings).verify(engine, register=True)
        await assembly.broker(consumer, settings).declare(assembly.declared(consumer, settings))
        scaling = assembly.scaling(consumer, settings, engine)
        is_finished = await scaling.scale(partitions, stop, say)
    if is_finished:
        say(f"{consumer.name} has {partitions} partitions")
    else:
        say("not finished: run the command again")
    return is_finished


async def preview(
    consumer: Consumer,
    settings: ConsumerSettings,
    partitions: int,
    say: Say,
    _stop: asyncio.Event,
) -> bool:
    """
    Call *say* with what `scale` would do, and change nothing; raises the same errors.

    Returns True.
    """
    _check(consumer, settings)
    async with assembly.database(consumer, settings) as engine:
        await migrate.verify(engine)
        await row_access.verify(engine, checks.rights_of_status(consumer))
        shared = await Partitions(consumer.name, engine).look()
    say(f"{consumer.name}: from {_present(shared)} to {partitions} partitions")
    if any(each.state is State.DECLARED for each in shared.generations):
        say("first it would finish a change that is under way")
    waiting = 0
    broker, queues = assembly.broker(consumer, settings), assembly.queues(consumer, settings)
    read = [(each.generation, each.number) for each in shared.partitions]
    for generation, number in read or [(0, 0)]:
        name = queues.partition(generation, number)
        depth = await broker.depth(name)
        waiting += depth.messages if depth else 0
    say(f"{waiting:,} messages would have to be settled before later ones of any key")
    return True


def _present(shared: Shared) -> str:
    current = [each for each in shared.generations if each.state is State.CURRENT]
    return f"{current[-1].partitions}" if current and current[-1].number else "none"


def _check(consumer: Consumer, settings: ConsumerSettings) -> None:
    """Raise ConfigurationError unless *consumer* reads partitions."""
    if consumer.partitions is None:
        raise ConfigurationError(
            f"consumer {consumer.name}: has no partitions: declare it with ordered=True and"
            " partitions=N, and replace its processes first"
        )
    if not checks.is_partitioned(consumer, settings):
        raise ConfigurationError(
            "MQ_BROKER_URL: only RabbitMQ has partitions; with another broker one process of an"
            " ordered consumer works at a time"
        )

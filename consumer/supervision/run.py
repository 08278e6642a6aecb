"""
The command `consumer run --processes`: a supervisor with its parts.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

from prometheus_client import CollectorRegistry

from consumer import assembly, checks, target
from consumer.consumer import Consumer
from consumer.service import USUAL_METRICS_PORT
from consumer.settings import ConsumerSettings
from consumer.storage.partitions import Partitions
from consumer.supervision.child import ChildProcess, own_variables, same_program
from consumer.supervision.merged_metrics import MergedMetrics
from consumer.supervision.options import cores, limits, read
from consumer.supervision.restarts import Crashes
from consumer.supervision.scaling import Limits, Pace
from consumer.supervision.supervisor import PROCESSES, Supervisor
from consumer.supervision.telemetry import Telemetry
from outbox.cli.start import fail
from outbox.errors import ConfigurationError
from outbox.runtime import log_context, probes, service
from outbox.runtime.service import ABORT_SECONDS, ExitCode
from outbox.transports.base import Transport

_ABORT = timedelta(seconds=ABORT_SECONDS)


def run(name: str, processes: str | None, *, minimum: int | None, maximum: int | None) -> NoReturn:
    """
    Keep processes of the consumer *name* running until a signal ends them.

    *processes*, *minimum* and *maximum* are the options of the command. Ends this process with the
    code of the service.
    """
    try:
        asked = read(processes, minimum, maximum, cores=cores())
    except ConfigurationError as error:
        fail(error)
    settings, consumer = target.start(name, warnings="log")
    try:
        checks.check_all(consumer, settings)
        allowed = limits(asked, consumer, settings)
    except ConfigurationError as error:
        fail(error)
    code = service.run(
        lambda stop: supervise(name, consumer, settings, stop, allowed=allowed),
        # A process has its own deadline, and a while to end after it.
        drain=settings.drain + 2 * _ABORT,
    )
    raise SystemExit(code)


async def supervise(
    name: str,
    consumer: Consumer,
    settings: ConsumerSettings,
    stop: asyncio.Event,
    *,
    allowed: Limits,
    pace: Pace | None = None,
    program: Sequence[str] | None = None,
) -> ExitCode:
    """
    Supervise processes of *consumer*, which is called *name* on the command line.

    Their number follows the load at this *pace*, between the limits that are *allowed*. *program*
    is the command `consumer`; by default that of this process. Raises ConfigurationError if the
    probes cannot be served.
    """
    registry, health = CollectorRegistry(), probes.Health(PROCESSES)
    log_context.bind(consumer=consumer.name)
    command, variables = [*(program or same_program()), "run", name], own_variables()

    async def start(number: int) -> ChildProcess:
        return await ChildProcess.start(number, command, variables)

    telemetry = Telemetry(registry)
    is_fixed = allowed.minimum == allowed.maximum
    supervisor = Supervisor(
        start=start,
        limits=allowed,
        crashes=Crashes(settings.delivery_limit),
        telemetry=telemetry,
        health=health,
        deadline=settings.drain + 1.5 * _ABORT,
        pace=pace,
        backlog=None if is_fixed else WorkQueues(consumer, settings, telemetry),
    )
    registry.register(MergedMetrics(lambda: supervisor.ports))
    async with probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT):
        telemetry.supervising(minimum=allowed.minimum, maximum=allowed.maximum)
        return await supervisor.run(stop)


class WorkQueues:
    """The queues whose messages the processes of *consumer* share."""

    def __init__(
        self, consumer: Consumer, settings: ConsumerSettings, telemetry: Telemetry
    ) -> None:
        connections = telemetry.availability.connections
        self._broker: Transport = assembly.broker(consumer, settings, connections=connections)
        self._consumer = consumer
        self._settings = settings
        self._queues = assembly.queues(consumer, settings)

    async def waiting(self) -> int:
        depths = [await self._broker.depth(name) for name in await self._names()]
        # A queue that does not exist yet has no messages: the first process declares it.
        return sum(depth.messages for depth in depths if depth is not None)

    async def _names(self) -> list[str]:
        """The work queue, or the partitions of all generations."""
        if not self._queues.is_partitioned:
            return [self._queues.name]
        # Once for each look: a pool of its own would hold a connection between them.
        async with assembly.database(self._consumer, self._settings) as engine:
            shared = await Partitions(self._consumer.name, engine).look()
        return [self._queues.partition(each.generation, each.number) for each in shared.partitions]

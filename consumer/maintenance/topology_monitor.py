"""
Checks from time to time that queues, bindings and policies are still as they have to be.

If a queue is deleted and another one is declared at once under its name, RabbitMQ moves the
consumer to the new queue without an error. The new one may drop messages that the old one keeps.

| found                                    | done                                            |
|------------------------------------------|-------------------------------------------------|
| the work queue is missing or differs     | the process ends, after a second check          |
| another queue or an exchange is missing  | reported, and declared if MQ_DECLARE_TOPOLOGY    |
| a binding is missing                     | bound again if MQ_DECLARE_TOPOLOGY, and reported |
| a binding that is not declared           | reported                                        |
| a policy can lose messages               | reported; the process is not ready              |

AMQP cannot list bindings, so they are declared at each check, whether or not one is missing.
Bindings and policies are only noticed with MQ_MANAGEMENT_URL.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta

from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from outbox.runtime import logs
from outbox.runtime.service import pause
from outbox.runtime.topology_report import (
    Kind,
    Problem,
    TopologyReport,
    of_mismatch,
    of_policy,
)
from outbox.transports.base import Transport
from outbox.transports.management import Management, describe_unwanted
from outbox.transports.topology import Topology

INSPECT_EVERY = timedelta(seconds=15)
ANSWERS_WITHIN = timedelta(seconds=10)


class TopologyMonitor:
    """
    Compares *topology*, the one of *queues*, with the broker's, again and again.

    Args:
        management: Asked for bindings and policies; None if it is not configured.
        declares: Whether missing queues and bindings are declared.
        every: The longest pause between two checks; jitter shortens it by up to half.
        within: Time for the broker's answer; a broker that takes longer counts as unreachable.
        jitter: Returns a number in [0, 1).

    """

    def __init__(
        self,
        *,
        transport: Transport,
        queues: ConsumerQueues,
        topology: Topology,
        report: TopologyReport,
        management: Management | None = None,
        declares: bool = True,
        every: timedelta = INSPECT_EVERY,
        within: timedelta = ANSWERS_WITHIN,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._topology = topology
        work = [queue for queue in topology.queues if queue.name == queues.name]
        self._work = Topology(queues=work)
        self._others = Topology(
            topology.exchanges, [queue for queue in topology.queues if queue not in work]
        )
        self._bindings = Topology(
            bindings=topology.bindings, exchange_bindings=topology.exchange_bindings
        )
        self._report = report
        self._management = management
        self._declares = declares
        self._every = every
        self._within = within
        self._jitter = jitter
        self._may_compare = True
        self._holding: frozenset[str] = frozenset()

    async def run(self, stop: asyncio.Event) -> None:
        """
        Check until *stop* is set.

        `Worker` reports an unreachable broker.
        Raises TopologyMismatch if the work queue does not exist, or has other arguments, in two
        checks in a row: a cluster that has just lost a node may deny for a moment that a queue
        exists.
        """
        is_suspect = False
        while True:
            wait = self._every * (1 - self._jitter() / 2)
            await pause(stop, wait / 3 if is_suspect else wait)
            if stop.is_set():
                return
            was_suspect, is_suspect = is_suspect, False
            # An unreachable broker is asked again after the pause.
            with suppress(BrokerUnavailable, TimeoutError):
                try:
                    async with asyncio.timeout(self._within.total_seconds()):
                        await self._verify(self._work)
                except TopologyMismatch:
                    if was_suspect:
                        raise
                    is_suspect = True
                else:
                    async with asyncio.timeout(self._within.total_seconds()):
                        await self.inspect()

    async def inspect(self) -> None:
        """
        Check everything but the work queue once, and report.

        Raises BrokerUnavailable.
        """
        problems = await self._mismatches()
        problems += await self._missing_bindings()
        if self._declares:
            problems = await self._repair(problems)
        problems += await self._unwanted_bindings()
        problems += await self._policies()
        self._report.found(problems)

    async def _verify(self, topology: Topology) -> None:
        """Raises TopologyMismatch; compares no arguments if the user has no permission."""
        if self._may_compare:
            if not_compared := await self._transport.verify(topology):
                # Each further comparison would be an error in the broker's log.
                self._may_compare = False
                logs.get("topology").warning("arguments_not_compared", of=not_compared[0])
            return
        missing = [
            queue.name
            for queue in topology.queues
            if await self._transport.depth(queue.name) is None
        ]
        if missing:
            raise TopologyMismatch("\n".join(f"queue {name} does not exist" for name in missing))

    async def _mismatches(self) -> list[Problem]:
        try:
            await self._verify(self._others)
        except TopologyMismatch as mismatch:
            return of_mismatch(mismatch)
        return []

    async def _missing_bindings(self) -> list[Problem]:
        if self._management is None:
            return []
        # `_policies` reports that it cannot be asked.
        with suppress(BrokerUnavailable, ConfigurationError):
            return [
                Problem(Kind.UNBOUND, str(binding))
                for binding in await self._management.missing_bindings(self._topology)
            ]
        return []

    async def _unwanted_bindings(self) -> list[Problem]:
        if self._management is None:
            return []
        # `_policies` reports that it cannot be asked.
        with suppress(BrokerUnavailable, ConfigurationError):
            return [
                Problem(Kind.UNWANTED, describe_unwanted(binding))
                for binding in await self._management.unwanted_bindings(self._topology)
            ]
        return []

    async def _repair(self, problems: list[Problem]) -> list[Problem]:
        """
        Declare what is missing, and all bindings; return the problems that are left.

        The work queue is never declared: that it is missing must end the process.
        """
        left: list[Problem] = []
        if any(problem.kind is Kind.DIFFERS for problem in problems):
            left += await self._declare(self._others, Kind.DIFFERS)
        left += await self._declare(self._bindings, Kind.UNKNOWN)
        self._report.declared()
        for problem in problems:
            if problem not in left:
                self._report.repaired(problem)
        return left

    async def _declare(self, topology: Topology, kind: Kind) -> list[Problem]:
        try:
            await self._transport.declare(topology)
        except TopologyMismatch as mismatch:
            return of_mismatch(mismatch, kind)
        return []

    async def _policies(self) -> list[Problem]:
        """The problems that only the management API can tell."""
        if self._management is None:
            return []
        try:
            found = [of_policy(each) for each in await self._management.policies(self._topology)]
            for mismatch in await self._management.unlike_limits(self._topology):
                found += of_mismatch(mismatch)
            found += self._still_held(await self._management.held(self._topology))
        except (BrokerUnavailable, ConfigurationError) as error:
            return [Problem(Kind.UNKNOWN, str(error))]
        return found

    def _still_held(self, holding: Collection[str]) -> list[Problem]:
        """The queues of *holding* that held messages at the last check too."""
        before, self._holding = self._holding, frozenset(holding)
        return [
            Problem(Kind.HELD, self._held_by(queue)) for queue in sorted(before & self._holding)
        ]

    def _held_by(self, queue: str) -> str:
        text = f"queue {queue} holds messages until "
        if queue == self._queues.dead:
            return f"{text}a queue {self._queues.release} exists, because they expired"
        target = self._queues.dead if queue == self._queues.name else self._queues.name
        return f"{text}queue {target} takes them; RabbitMQ tries again every 3 minutes"

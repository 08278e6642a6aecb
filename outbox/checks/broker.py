"""
Version, TLS, alarms, clock and permissions of the broker, and whether events would reach a queue.
"""

from collections.abc import Sequence

from outbox.checks import clocks, permissions, redis, unroutable, versions
from outbox.checks.report import Report
from outbox.checks.result import Check, CheckResult, Status
from outbox.checks.unroutable import Waiting
from outbox.runtime import topology_report
from outbox.settings import SharedSettings
from outbox.transports.base import Transport
from outbox.transports.inspection import Act, BrokerFacts
from outbox.transports.management import BrokerHealth, Management
from outbox.transports.redis_facts import RedisFacts
from outbox.transports.routes import RouteState
from outbox.transports.topology import Topology

RABBITMQ = "RabbitMQ"
NO_API = "MQ_MANAGEMENT_URL is not set"
_NO_ROUTES = "the broker has no management API"
_UNREACHABLE = "the broker cannot be reached"


class BrokerCheck:
    """
    Adds to *report* what there is to say about the broker behind *transport*.

    Args:
        management: Answers questions; None without MQ_MANAGEMENT_URL.

    """

    def __init__(
        self,
        settings: SharedSettings,
        transport: Transport,
        management: Management | None,
        report: Report,
    ) -> None:
        self._transport = transport
        self._management = management
        self._report = report
        self._declares = settings.declare_topology
        self._is_embedded = settings.brokers[0].scheme == "sqlite"
        self._awaited = settings.redis_replicas
        self._is_rabbitmq = settings.brokers[0].scheme in {"amqp", "amqps"}

    async def server(self, acts: Sequence[Act]) -> bool:
        """Check the server, and attempts at *acts*; returns whether it can be reached."""
        facts = await self._report.async_step(Check.BROKER_VERSION, self._transport.inspect(acts))
        if facts is None and self._is_embedded:
            return False
        if facts is None:
            self._report.add(
                CheckResult.not_checked(
                    Check.TOPOLOGY, "exchanges, queues and permissions", because=_UNREACHABLE
                )
            )
            if self._is_rabbitmq:
                # Its management API may have problems of its own.
                await self._health(is_blocked=None)
            return False
        if self._is_embedded:
            self._report.add(
                CheckResult.ok(Check.BROKER_VERSION, f"the embedded broker, {_named(facts)}")
            )
            return True
        if facts.redis is not None:
            self._redis(facts, facts.redis)
            return True
        self._report.add(*of_version(facts), of_tls(facts))
        await self._health(is_blocked=facts.is_blocked)
        self._report.add(*permissions.of_answers(facts.answers))
        return True

    def _redis(self, facts: BrokerFacts, stored: RedisFacts) -> None:
        version = versions.parsed(facts.version)
        self._report.add(*versions.of_redis(facts.product, version), of_tls(facts))
        for alarm in redis.of_alarms(stored):
            if alarm.status is Status.ERROR:
                self._report.unavailable(alarm)
            else:
                self._report.add(alarm)
        self._report.add(
            *redis.of_durability(stored, awaited=self._awaited), *redis.of_server(stored)
        )

    async def topology(self, topology: Topology) -> None:
        """Check that *topology* exists as it is declared, and may be declared."""
        uncompared = await self._report.async_step(
            Check.TOPOLOGY, self._transport.verify(topology)
        )
        if uncompared is not None:
            self._report.add(*permissions.of_uncompared(uncompared, declares=self._declares))
            if not uncompared:
                self._report.add(permissions.of_topology(topology))

    async def policies(self, topology: Topology) -> None:
        """Check policies, bindings and delivery limits of *topology*."""
        if self._management is None and not self._is_rabbitmq:
            return
        if self._management is None:
            self._report.add(
                CheckResult.not_checked(
                    Check.POLICIES,
                    "policies, bindings and delivery limits",
                    because=f"{NO_API}; a policy must set neither overflow nor expires for these"
                    " queues, and queues of an older version have to be declared again",
                )
            )
            return
        odd = await self._report.async_step(
            Check.POLICIES, topology_report.check(self._management, topology)
        )
        if odd is not None:
            self._report.warn(Check.POLICIES, odd)
            if not odd and self._is_rabbitmq:
                self._report.add(
                    CheckResult.ok(
                        Check.POLICIES, "no policy changes the queues, and all bindings exist"
                    )
                )

    async def routes(self, waiting: Sequence[Waiting] | None) -> None:
        """Check that queues are bound for events that are *waiting*; None if these are unknown."""
        if waiting is None or (waiting and self._management is None):
            no_api = NO_API if self._is_rabbitmq else _NO_ROUTES
            because = "the outbox could not be read" if waiting is None else no_api
            self._report.add(
                CheckResult.not_checked(
                    Check.ROUTING_KEYS, "whether queues are bound for events", because=because
                )
            )
            return
        states = await self._report.async_step(Check.ROUTING_KEYS, self._states(waiting))
        if states is not None:
            self._report.add(*unroutable.of_routes(waiting, states))

    async def _states(self, waiting: Sequence[Waiting]) -> dict[str, dict[str, RouteState]]:
        states = {}
        for exchange in dict.fromkeys(each.exchange for each in waiting):
            keys = [each.routing_key for each in waiting if each.exchange == exchange]
            if self._management is not None:
                states[exchange] = await self._management.routes(exchange, keys)
        return states

    async def _health(self, *, is_blocked: bool | None) -> None:
        health = None
        if self._management is not None:
            health = await self._report.async_step(Check.BROKER_ALARMS, self._management.health())
        alarms = of_alarms(health, is_blocked=is_blocked)
        if alarms.status is Status.ERROR:
            self._report.unavailable(alarms)
        else:
            self._report.add(alarms)
        if health is not None and health.clock is not None:
            self._report.add(clocks.of_broker(health.clock))
        else:
            because = NO_API if self._management is None else "the management API does not tell it"
            self._report.add(
                CheckResult.not_checked(
                    Check.BROKER_CLOCK, "the clock of the broker", because=because
                )
            )


def of_version(facts: BrokerFacts) -> Sequence[CheckResult]:
    """Judge the version of the broker; attempts are made only at RabbitMQ."""
    if facts.product == RABBITMQ:
        return list(versions.of_rabbitmq(versions.parsed(facts.version)))
    because = "it does not call itself RabbitMQ"
    return [
        CheckResult.not_checked(check, what, because=because)
        for check, what in (
            (Check.BROKER_VERSION, "the version of the broker"),
            (Check.PERMISSIONS, "what the broker's user may do"),
        )
    ]


def of_tls(facts: BrokerFacts) -> CheckResult:
    """Say whether the connection uses TLS; settings refuse plaintext beyond loopback."""
    text = "with TLS" if facts.is_encrypted else "without TLS"
    return CheckResult.ok(Check.BROKER_TLS, f"the connection to the broker is {text}")


def of_alarms(health: BrokerHealth | None, *, is_blocked: bool | None) -> CheckResult:
    """
    Judge the alarms that the management API or a connection shows.

    *health* is None without an answer of the API, and *is_blocked* without an attempt to publish.
    """
    check = Check.BROKER_ALARMS
    if health is not None and health.alarms:
        return CheckResult.error(
            check,
            f"the broker takes no messages: alarm of {', '.join(health.alarms)}: free what is low,"
            " or raise the limit",
        )
    if is_blocked:
        return CheckResult.error(
            check,
            "the broker takes no messages since its memory or disk space is low: rabbitmqctl"
            " status names the alarm",
        )
    if health is None and is_blocked is None:
        because = "neither the broker nor its management API has answered"
        return CheckResult.not_checked(check, "alarms of the broker", because=because)
    return CheckResult.ok(check, "the broker has no alarm")


def _named(facts: BrokerFacts) -> str:
    return f"{facts.product} {facts.version}"

"""
Problems of exchanges, queues, bindings and policies: logged, counted, and shown by /readyz.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry

from outbox.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from outbox.runtime import logs
from outbox.runtime.in_memory import Counter, Gauge
from outbox.runtime.probes import Health
from outbox.transports.management import (
    Management,
    PolicyEffect,
    describe_unwanted,
    losing,
)
from outbox.transports.topology import Topology

READY = "topology"
"""What /readyz says is missing."""


class Kind(StrEnum):
    """The kind of a problem: a label of the metric, and a field of the log line."""

    POLICY_LOSES = "policy_loses"
    """A policy can lose messages."""
    POLICY_DELAYS = "policy_delays"
    """A policy delays or dead-letters messages, and loses none."""
    DIFFERS = "differs"
    """An exchange or queue is missing, or has other arguments."""
    UNBOUND = "unbound"
    """A binding is missing."""
    UNWANTED = "unwanted"
    """A queue has a binding that its consumer does not declare, and gets its messages."""
    HELD = "held"
    """A queue holds messages that no queue takes."""
    UNKNOWN = "unknown"
    """A check was not possible: the management API cannot be asked, or a permission is missing."""


_NOT_READY = {Kind.POLICY_LOSES, Kind.DIFFERS, Kind.UNBOUND}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A problem; *text* names the exchange, queue or policy."""

    kind: Kind
    text: str

    @property
    def is_blocking(self) -> bool:
        """Whether messages may be lost, or do not arrive: the process is not ready."""
        return self.kind in _NOT_READY


class TopologyReport:
    """Reports the problems of one process; *health* is not ready while one of them is blocking."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._log = logs.get("topology")
        self._health = health
        self._open: set[Problem] = set()
        self._gauge = Gauge(
            "mq_topology_problems",
            "Problems of exchanges, queues, bindings and policies, by kind.",
            ["kind"],
            registry=registry,
        )
        self._declared = Counter(
            "mq_topology_declared",
            "Times that a running consumer declared its queues and bindings again.",
            registry=registry,
        )
        self._repaired = Counter(
            "mq_topology_repaired",
            "Missing queues and bindings that a running consumer declared again.",
            registry=registry,
        )
        for kind in Kind:
            self._gauge.labels(kind.value).set(0)

    def found(self, problems: Collection[Problem]) -> None:
        """An inspection found *problems*, and no others; each is logged once."""
        now = set(problems)
        for problem in sorted(now - self._open):
            kind, text = problem.kind.value, problem.text
            if problem.is_blocking:
                self._log.error("topology_problem", kind=kind, problem=text)
            else:
                self._log.warning("topology_problem", kind=kind, problem=text)
        for problem in sorted(self._open - now):
            self._log.info(
                "topology_problem_solved", kind=problem.kind.value, problem=problem.text
            )
        self._open = now
        for kind in Kind:
            self._gauge.labels(kind.value).set(sum(each.kind is kind for each in now))
        if any(problem.is_blocking for problem in now):
            self._health.down(READY)
        else:
            self._health.up(READY)

    def declared(self) -> None:
        """The queues and bindings were declared again, although none may have been missing."""
        self._declared.inc()
        self._log.debug("topology_declared")

    def repaired(self, problem: Problem) -> None:
        """A missing queue or binding was declared again."""
        self._repaired.inc()
        self._log.warning("topology_repaired", kind=problem.kind.value, problem=problem.text)


def of_policy(effect: PolicyEffect) -> Problem:
    """The problem that *effect* is."""
    return Problem(Kind.POLICY_LOSES if effect.loses else Kind.POLICY_DELAYS, str(effect))


def of_mismatch(mismatch: TopologyMismatch, kind: Kind = Kind.DIFFERS) -> list[Problem]:
    """The problems that *mismatch* names, one on each line."""
    return [Problem(kind, line) for line in str(mismatch).splitlines()]


NOT_SET = (
    "policies, bindings and delivery limits were not checked, since MQ_MANAGEMENT_URL is not "
    "set; a policy must set neither overflow nor expires for these queues, and queues of an older "
    "version have to be declared again"
)


async def check_policies(management: Management | None, topology: Topology) -> None:
    """
    Check at start that no policy on the queues of *topology* can lose messages, and their limits.

    Raises ConfigurationError. It only warns if the management API cannot be asked.
    """
    try:
        if management is None:
            problem = NOT_SET
        else:
            problems = [_to_remove(each) for each in losing(await management.policies(topology))]
            problems += map(str, await management.unlike_limits(topology))
            if problems:
                raise ConfigurationError("\n".join(problems))
            return
    except BrokerUnavailable as error:
        problem = str(error)
    logs.get("topology").warning("policies_not_checked", problem=problem)


async def check(management: Management | None, topology: Topology) -> list[str]:
    """
    Return what is odd about the policies and bindings of *topology*, or that none was checked.

    Raises ConfigurationError with a line for each policy that can lose messages, for each queue
    with another limit and for each missing binding, and BrokerUnavailable.
    """
    if management is None:
        return [NOT_SET]
    found = await management.policies(topology)
    problems = [_to_remove(each) for each in losing(found)]
    problems += map(str, await management.unlike_limits(topology))
    problems += [str(binding) for binding in await management.missing_bindings(topology)]
    if problems:
        raise ConfigurationError("\n".join(problems))
    extra = await management.unwanted_bindings(topology)
    return [*map(str, found), *map(describe_unwanted, extra)]


def _to_remove(effect: PolicyEffect) -> str:
    return f"{effect}; remove {effect.key} from the policy"

"""
What a broker tells about itself beside messages: policies, bindings, and names of queues.

AMQP can ask for none of them; RabbitMQ answers over HTTP, if MQ_MANAGEMENT_URL says where. All
requests are read only.

What a policy does to a quorum queue, measured with RabbitMQ 3.10, 4.0 and 4.3:

    overflow                   replaces the argument of the queue
    max-length, -bytes         the smaller of policy and argument; then `overflow` decides
    message-ttl, expires       the smaller of policy and argument
    delivery-limit             the smaller of policy and argument
    dead-letter-…              the argument of the queue counts, and all queues have them
    other keys                 lose no message, or RabbitMQ does not apply the policy
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from outbox.clock_difference import ClockDifference
from outbox.errors import TopologyMismatch
from outbox.transports.broker_figures import BrokerFigures
from outbox.transports.routes import RouteState
from outbox.transports.topology import Binding, ExchangeBinding, Topology, by

API = "management API"
"""The dependency that `/readyz` names while a process needs an answer that does not come."""

REJECT = "reject-publish"

_LOSES = {
    "overflow": "the queue drops its oldest messages when it is full, and dead-letters without "
    "confirms",
    "expires": "the broker deletes the queue with its messages while no consumer uses it",
}
_REFUSES = (
    "the queue refuses messages while it is full, and the broker may hold dead-lettered ones even "
    "after the limit is gone"
)
_DELAYS = {
    "max-length": _REFUSES,
    "max-length-bytes": _REFUSES,
    "message-ttl": "messages leave the queue early: retries come too soon, other messages are "
    "dead-lettered, and the dead queue holds its own",
    "delivery-limit": "the broker dead-letters messages that were delivered often",
}


@dataclass(frozen=True, slots=True)
class PolicyEffect:
    """The effect of *key* of a *policy* on *queue*; *loses* says whether it can lose messages."""

    queue: str
    policy: str
    key: str
    loses: bool

    def __str__(self) -> str:
        effect = (_LOSES if self.loses else _DELAYS)[self.key]
        return f"queue {self.queue}: {self.policy} sets {self.key}: {effect}"


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """
    What the broker says about its state.

    Args:
        alarms: Alarms by which it takes no messages, as in `memory on rabbit@mq-1`.
        clock: The difference between its clock and that of this host, if it can be known.

    """

    alarms: Sequence[str] = ()
    clock: ClockDifference | None = None


class Management(Protocol):
    """
    Questions to a broker.

    Every method raises BrokerUnavailable when the broker cannot be asked, and ConfigurationError
    when it refuses the user.
    """

    async def policies(self, topology: Topology) -> list[PolicyEffect]:
        """Return the effects of policies on the queues of *topology* that exist."""

    async def unlike_limits(self, topology: Topology) -> list[TopologyMismatch]:
        """
        Return an error for each queue of *topology* that exists with another x-delivery-limit.

        Queues of *topology* without that argument are left out. A user that may not declare a
        queue learns of it only here.
        """

    async def missing_bindings(self, topology: Topology) -> list[Binding | ExchangeBinding]:
        """Return the bindings of *topology* that do not exist."""

    async def unwanted_bindings(self, topology: Topology) -> list[Binding]:
        """
        Return the bindings of the queues of *topology* that it does not have.

        One that an earlier deployment left goes on delivering messages.
        """

    async def queues(self, prefix: str) -> list[str]:
        """Return the names of all queues that begin with *prefix*, sorted."""

    async def is_bound(self, queue: str, exchange: str) -> bool:
        """Return whether *queue* exists and any binding leads from *exchange* to it."""

    async def routes(self, exchange: str, keys: Collection[str]) -> dict[str, RouteState]:
        """Return, for each of the routing *keys*, whether *exchange* leads it to a queue."""

    async def health(self) -> BrokerHealth:
        """Return the alarms of the broker, and the time by its clock."""

    async def held(self, topology: Topology) -> dict[str, int]:
        """
        Return how many messages each queue of *topology* holds because no other queue takes them.

        Only queues that hold any are in it. Messages on their way to another queue count as well.
        """

    async def figures(self) -> BrokerFigures:
        """Return what the broker does, with all queues of the virtual host."""


def unwanted(topology: Topology, there: Iterable[Binding]) -> list[Binding]:
    """Return the bindings that are *there* and not in *topology*, sorted by queue and exchange."""
    # The default exchange, which has no name, is bound to every queue.
    found = [each for each in there if each.exchange and each not in topology.bindings]
    return sorted(found, key=lambda each: (each.queue, each.exchange, each.pattern))


def describe_unwanted(binding: Binding) -> str:
    """Return what an operator has to know about a *binding* that no declaration has."""
    return (
        f"queue {binding.queue} is bound to exchange {binding.exchange} by "
        f"{by(binding.pattern, binding.headers)},"
        " which its consumer does not declare: unbind it, or these messages go on arriving"
    )


def effects(queue: str, policy: str, definition: Mapping[str, Any]) -> list[PolicyEffect]:
    """Return the effects of the effective *definition* of *policy* on *queue*."""
    found = []
    for key, value in sorted(definition.items()):
        loses = key in _LOSES and value != REJECT
        if loses or key in _DELAYS:
            found.append(PolicyEffect(queue, policy, key, loses=loses))
    return found


def losing(found: Sequence[PolicyEffect]) -> list[PolicyEffect]:
    """Return those of *found* that can lose messages."""
    return [each for each in found if each.loses]

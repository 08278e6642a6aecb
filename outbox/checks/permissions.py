"""
What the broker's answers to attempts mean: pure.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import assert_never

from outbox.checks.result import Check, CheckResult
from outbox.transports.inspection import Act, Answer, BindingOf, Consuming, Permission, Publishing
from outbox.transports.topology import Topology


def of_answers(answers: Sequence[Answer]) -> Iterator[CheckResult]:
    """Judge the *answers* of the broker; what does not exist is a problem of the topology."""
    for act, group in groupby(answers, key=lambda answer: answer.act):
        yield from _of_act(act, list(group))


def _of_act(act: Act, answers: Sequence[Answer]) -> Iterator[CheckResult]:
    check = Check.PERMISSIONS
    found = {answer.permission for answer in answers}
    if Permission.REFUSED in found:
        yield CheckResult.error(check, f"the broker's user may not {act}: {_grant(act)}")
    elif Permission.BLOCKED in found:
        because = "the broker takes no messages"
        yield CheckResult.not_checked(check, f"whether the user may {act}", because=because)
    elif Permission.UNKNOWN in found:
        because = "a topic permission decides by the routing key"
        yield CheckResult.not_checked(check, f"whether the user may {act}", because=because)
    elif found == {Permission.GRANTED}:
        yield CheckResult.ok(check, f"the broker's user may {act}")
    for answer in answers:
        if answer.permission is Permission.REFUSED_BY_KEY:
            yield CheckResult.error(
                check,
                f"the broker's user may not {act} with the routing key {answer.routing_key}, which"
                " waits in the outbox: change it with rabbitmqctl set_topic_permissions",
            )


def of_uncompared(entities: Sequence[str], *, declares: bool) -> Iterator[CheckResult]:
    """Judge *entities* that the user may not configure; a process that *declares* them must."""
    for entity in entities:
        if declares:
            yield CheckResult.error(
                Check.PERMISSIONS,
                f"{entity}: the broker's user may not configure it, and a start declares it: grant"
                " configure with rabbitmqctl set_permissions, or set MQ_DECLARE_TOPOLOGY=false",
            )
        else:
            yield CheckResult.warning(
                Check.TOPOLOGY,
                f"{entity}: exists, but its arguments could not be compared, since the broker's"
                " user may not configure it",
            )


def of_topology(topology: Topology) -> CheckResult:
    """Say that *topology* is in the broker."""
    exchanges, queues = len(topology.exchanges), len(topology.queues)
    listed = f"{exchanges} exchanges" + (f" and {queues} queues" if queues else "")
    return CheckResult.ok(Check.TOPOLOGY, f"{listed} exist as they are declared")


def _grant(act: Act) -> str:
    match act:
        case Publishing(exchange):
            needed = f"write on {exchange or 'amq.default'}"
        case Consuming(queue):
            needed = f"read on {queue}"
        case BindingOf(exchange, queue):
            needed = f"write on {queue} and read on {exchange}"
        case _:
            assert_never(act)
    return f"grant {needed} with rabbitmqctl set_permissions"

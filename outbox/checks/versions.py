"""
The versions of servers that are supported, and faults of some of them that lose or hold events.

Faults that only matter to security, to other kinds of queues or to other features are left out.
Each fault names the release notes or the change that describes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from outbox.checks.result import Check, CheckResult

Version = tuple[int, ...]

OLDEST_POSTGRES: Version = (14,)
NEWEST_POSTGRES: Version = (18,)
OLDEST_RABBITMQ: Version = (3, 13)
NEWEST_RABBITMQ: Version = (4, 3)
OLDEST_TESTED_RABBITMQ: Version = (3, 10)
"""Debian 12 ships it: everything works, and RabbitMQ fixes no faults in it any more."""
OLDEST_REDIS: Version = (7, 0)
NEWEST_REDIS: Version = (8, 0)
OLDEST_VALKEY: Version = (7, 2)
"""Its first release."""
NEWEST_VALKEY: Version = (8, 1)
NEWEST_PYTHON: Version = (3, 14)
PRIORITIES_SINCE: Version = (4, 0)
STRICT_PRIORITIES_SINCE: Version = (4, 3)
"""From these versions on the quorum queues of RabbitMQ deliver by priority."""

REDIS_VERSIONS: dict[str, tuple[Version, Version]] = {
    "Redis": (OLDEST_REDIS, NEWEST_REDIS),
    "Valkey": (OLDEST_VALKEY, NEWEST_VALKEY),
}
"""The oldest version that is supported and the newest that was tested, by the product."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the versions from *first* on, before *fixed*."""

    first: Version
    fixed: Version
    text: str
    source: str

    def affects(self, version: Version) -> bool:
        """Whether *version* has the fault."""
        return self.first <= version < self.fixed


_RABBITMQ_RELEASES = "https://github.com/rabbitmq/rabbitmq-server/releases/tag"

POSTGRES_FAULTS = (
    Fault(
        (14,),
        (14, 4),
        "indexes that were built with CONCURRENTLY may lack rows: rebuild them after the upgrade",
        "https://www.postgresql.org/docs/14/release-14-4.html",
    ),
)

RABBITMQ_FAULTS = (
    Fault(
        (3, 10),
        (3, 10, 5),
        "a quorum queue may fail when it dead-letters a message",
        f"{_RABBITMQ_RELEASES}/v3.10.5",
    ),
    Fault(
        (3, 12),
        (3, 12, 4),
        "a quorum queue may not deliver some messages after consumers have come and gone",
        f"{_RABBITMQ_RELEASES}/v3.12.4",
    ),
    Fault(
        (3, 13, 3),
        (3, 13, 6),
        "a node may refuse to start with quorum queues of older versions",
        f"{_RABBITMQ_RELEASES}/v3.13.6",
    ),
    Fault(
        (4, 0),
        (4, 0, 7),
        "the logs of a quorum queue's members may differ, which loses messages",
        "https://github.com/rabbitmq/rabbitmq-server/pull/13326",
    ),
    Fault(
        (4, 3),
        (4, 3, 3),
        "a quorum queue may confirm a message too early, and may stop dead-lettering after its"
        " members have changed",
        f"{_RABBITMQ_RELEASES}/v4.3.3",
    ),
)


def of_postgres(version: Version) -> Iterator[CheckResult]:
    """Judge the *version* of Postgres."""
    name, check = f"Postgres {shown(version)}", Check.DATABASE_VERSION
    if version < OLDEST_POSTGRES:
        yield CheckResult.error(
            check, f"{name} is too old: {shown(OLDEST_POSTGRES)} is the oldest supported version"
        )
        return
    yield CheckResult.ok(check, f"{name}{_if_newer(version, NEWEST_POSTGRES)}")
    yield from _faults(check, name, version, POSTGRES_FAULTS)


def of_rabbitmq(version: Version) -> Iterator[CheckResult]:
    """Judge the *version* of RabbitMQ."""
    name, check = f"RabbitMQ {shown(version)}", Check.BROKER_VERSION
    if version < OLDEST_TESTED_RABBITMQ:
        yield CheckResult.error(
            check, f"{name} is too old: {shown(OLDEST_RABBITMQ)} is the oldest supported version"
        )
        return
    if version < OLDEST_RABBITMQ:
        yield CheckResult.warning(
            check,
            f"{name} works, but faults in it are no longer fixed: upgrade to"
            f" {shown(OLDEST_RABBITMQ)} or newer",
        )
    else:
        yield CheckResult.ok(check, f"{name}{_if_newer(version, NEWEST_RABBITMQ)}")
    yield from _faults(check, name, version, RABBITMQ_FAULTS)


def of_redis(product: str, version: Version) -> Iterator[CheckResult]:
    """Judge the *version* of *product*, which is Redis or Valkey."""
    name, check = f"{product} {shown(version)}", Check.BROKER_VERSION
    oldest, newest = REDIS_VERSIONS[product]
    if version < oldest:
        yield CheckResult.error(
            check, f"{name} is too old: {shown(oldest)} is the oldest supported version"
        )
        return
    yield CheckResult.ok(check, f"{name}{_if_newer(version, newest)}")


def of_priorities(version: Version) -> CheckResult:
    """Say what the quorum queues of this *version* of RabbitMQ make of priorities."""
    name = f"queues of RabbitMQ {shown(version)}"
    if version < PRIORITIES_SINCE:
        text = (
            f"{name} deliver in the order of publishing: an urgent event that waits in a queue"
            " overtakes no other one; docs/explanation/priorities.md has the remedy"
        )
    elif version < STRICT_PRIORITIES_SINCE:
        text = f"{name} deliver two urgent events for each other one, as long as urgent ones wait"
    else:
        text = f"{name} deliver urgent events first, then normal ones, then low ones"
    return CheckResult.ok(Check.BROKER_PRIORITIES, text)


def of_python(version: Version) -> Iterator[CheckResult]:
    """Judge the *version* of Python; no older one than the oldest can run this program."""
    newer = _if_newer(version, NEWEST_PYTHON)
    yield CheckResult.ok(Check.PYTHON_VERSION, f"Python {shown(version)}{newer}")


def parsed(text: str) -> Version:
    """Return the numbers with which *text* begins, as in `4.1.0-rc.2`."""
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def shown(version: Version) -> str:
    """Return *version* for people."""
    return ".".join(map(str, version))


def _if_newer(version: Version, newest: Version) -> str:
    if version[: len(newest)] <= newest:
        return ""
    return f", which is newer than {shown(newest)}, the newest that was tested"


def _faults(
    check: Check, name: str, version: Version, faults: tuple[Fault, ...]
) -> Iterator[CheckResult]:
    for fault in faults:
        if fault.affects(version):
            yield CheckResult.warning(
                check,
                f"{name}: {fault.text}; upgrade to {shown(fault.fixed)} or newer, see"
                f" {fault.source}",
            )

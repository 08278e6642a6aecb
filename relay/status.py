"""
The status of the relay: the outbox by state, with the bindings of the broker, and dead letters.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from outbox.database import migrate, privileges, row_access
from outbox.dead_letters.source import reading
from outbox.dead_letters.store import DeadLetters, ReasonCount
from outbox.errors import ConfigurationError, Unavailable
from outbox.tables import dead_letters, outbox
from outbox.transports.connect import management
from outbox.transports.management import Management
from outbox.transports.routes import RouteState
from relay import assembly
from relay.event_group import EventGroup
from relay.settings import RelaySettings
from relay.storage.base import Backlog
from relay.storage.settlement import SOURCE

RIGHTS = {outbox: ["SELECT"], dead_letters: ["SELECT"]}
NOT_ASKED = "set MQ_MANAGEMENT_URL to the broker's management API to see whether queues are bound"


@dataclass(frozen=True, slots=True)
class Status:
    """
    The status of the relay.

    Args:
        dead_letters: The dead letters of the relay by reason.
        bindings_unknown: Why the broker was not asked for bindings; None if it was.

    """

    outbox: Backlog
    dead_letters: Sequence[ReasonCount]
    bindings_unknown: str | None


async def read_status(settings: RelaySettings) -> Status:
    """
    Return the status of the relay; a broker that cannot be asked is no error.

    Raises SchemaMismatch and DatabaseUnavailable.
    """
    async with assembly.database_to_look_at(settings) as engine:
        await migrate.verify(engine)
        await privileges.verify(engine, RIGHTS)
        await row_access.verify(engine, RIGHTS)
        backlog = await assembly.store(engine, settings).backlog(by_route=True)
        async with reading(engine) as connection:
            counts = await DeadLetters(SOURCE).reason_counts(connection)
    events = with_exchange(backlog.events, settings.main_exchange)
    problem = None
    if any(each.routes for each in events):
        events, problem = await _with_bindings(events, settings)
    return Status(replace(backlog, events=events), counts, problem)


def with_exchange(events: Sequence[EventGroup], name: str) -> list[EventGroup]:
    """Return *events* with the configured exchange, *name*, where a row names none."""
    return [
        replace(
            group,
            routes=[
                replace(each, exchange=name if each.exchange is None else each.exchange)
                for each in group.routes
            ],
        )
        for group in events
    ]


async def bindings(
    asked: Management, events: Sequence[EventGroup]
) -> dict[tuple[str | None, str], RouteState]:
    """
    Return whether the routes of *events* lead to a queue, by exchange and routing key.

    Raises BrokerUnavailable and ConfigurationError.
    """
    keys: defaultdict[str | None, set[str]] = defaultdict(set)
    for group in events:
        for each in group.routes:
            keys[each.exchange].add(each.routing_key)
    found: dict[tuple[str | None, str], RouteState] = {}
    for exchange, wanted in keys.items():
        states = await asked.routes(exchange or "", sorted(wanted))
        found |= {(exchange, key): state for key, state in states.items()}
    return found


async def _with_bindings(
    events: list[EventGroup], settings: RelaySettings
) -> tuple[list[EventGroup], str | None]:
    try:
        asked = management(settings)
        if asked is None:
            return events, NOT_ASKED
        found = await bindings(asked, events)
    except (Unavailable, ConfigurationError) as error:
        return events, str(error)
    bound = [
        replace(
            group,
            routes=[
                replace(each, binding=found[each.exchange, each.routing_key])
                for each in group.routes
            ],
        )
        for group in events
    ]
    return bound, None

"""
What happens to events with markers: every failure that this project knows, and the end of servers.

After `live`, each table and each queue holds some of the events.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from consumer.storage.tables import parked_messages
from outbox.errors import DatabaseUnavailable
from outbox.tables import dead_letters, outbox
from tests.support import effects as application
from tests.support.canary.fleet import Fleet, metrics
from tests.support.canary.markers import Group, Markers, Search
from tests.support.canary.places import memory, processes
from tests.support.eventually import eventually

HANDLED = ("canary.handled", "canary.retried")
DEAD = (
    *(f"canary.{word}" for word in ("fails", "middleware", "filtered", "batch", "leased")),
    *(f"canary.{word}" for word in ("modelled", "rejected", "sql", "unknown")),
    "nowhere.happened",
)
WAITING = ("canary.later", "lane.blocked", "lane.blocked")
TAMPERED = "canary.handled"
EFFECTS = 3
"""Of the events in HANDLED: one of them leads to another."""


@dataclass
class Scenario:
    """
    The life of events in *fleet*, each with markers of its group.

    *outage* stops the servers and starts them again; *unsearched* is a directory for files that
    hold markers by design. *search* sees what can be seen only while the processes run.
    """

    fleet: Fleet
    markers: dict[Group, Markers]
    outage: Callable[[], Awaitable[None]]
    unsearched: Path
    search: Search
    subjects: list[str] = field(default_factory=list)
    """The persons that the events are about."""

    async def live(self) -> None:
        await self._fail_in_every_way()
        await self._survive()
        await self._leave_events_everywhere()

    def an_event(self, group: Group, type_: str, **fields: Any) -> dict[str, Any]:
        """The fields of an event of *group* with a marker in each that may be private."""
        own = self.markers[group]
        statement = self.markers[Group.HANDLER] if group is Group.ENCRYPTED else own
        event = {
            "id": str(uuid4()),
            "type": type_,
            "payload": {"note": own.new(), "statement": statement.new()},
            "ordering_key": own.new(),
            "idempotency_key": own.new(),
            "correlation_id": own.new(),
            "headers": {"source": own.new()},
            **fields,
        }
        if group is Group.ENCRYPTED and type_ in {"canary.handled", "lane.blocked"}:
            event["subject"] = own.new()
            self.subjects.append(event["subject"])
        return event

    def events(self, group: Group) -> list[dict[str, Any]]:
        """One event for each way of an event."""
        lane = self.markers[group].new()
        kinds = (*HANDLED, *DEAD, *WAITING)
        return [
            self.an_event(group, type_, ordering_key=lane)
            if type_.startswith("lane")
            else self.an_event(group, type_)
            for type_ in kinds
        ]

    async def _fail_in_every_way(self) -> None:
        """All processes run undisturbed; some bodies were changed in the outbox."""
        recorded, tampered = {}, []
        for group in (Group.ENCRYPTED, Group.PLAIN):
            damaged = [self.an_event(group, TAMPERED) for _ in range(2)]
            large = {"note": self.markers[group].new() * 200}
            packed = [
                self.an_event(group, "canary.rejected", payload=large, compression=name)
                for name in ("gzip", "zstd")
            ]
            recorded[group] = [*self.events(group), *damaged, *packed]
            tampered += [event["id"] for event in damaged]
        await self._record(recorded)
        await self._damage(tampered)
        # The relay would take events for unroutable before the consumers have declared queues.
        consumers = await asyncio.gather(self.fleet.canary(), self.fleet.lanes())
        relay = await self.fleet.relay()
        await self._has(dead=2 * (len(DEAD) + 4), parked=2 * 2, effects=2 * EFFECTS, within=30)
        self.search.look("processes", processes())
        for process in (relay, *consumers):
            self.search.look("metrics", await metrics(process))
        for name, process in (("relay", relay), ("consumer", consumers[0])):
            for region in memory(process.pid):
                self.search.look_in_memory(f"memory of the {name}", region)

        self._processes = [relay, *consumers]

    async def _survive(self) -> None:
        """All processes are killed, and the servers end, while events are on their way."""
        await self._record({group: self.events(group) for group in (Group.ENCRYPTED, Group.PLAIN)})
        for process in self._processes:
            process.kill()
        self.search.look("processes", processes())
        self._processes[:] = await asyncio.gather(
            self.fleet.relay(), self.fleet.canary(), self.fleet.lanes()
        )
        await self.outage()
        await self._has(
            dead=2 * (2 * len(DEAD) + 4), parked=2 * 4, effects=2 * 2 * EFFECTS, within=40
        )

    async def _leave_events_everywhere(self) -> None:
        """Events wait in the queues of the broker, and others in the outbox."""
        relay, *consumers = self._processes
        for process in consumers:
            await process.terminate()
        left = {
            group: [self.an_event(group, "canary.handled") for _ in range(3)]
            for group in (Group.ENCRYPTED, Group.PLAIN)
        }
        await self._record(left)
        await eventually(self.fleet.is_drained, within=20)
        relay.kill()
        await self._record({group: self.events(group) for group in left})

    async def _record(self, events: dict[Group, list[dict[str, Any]]]) -> None:
        given = {"encrypted": events[Group.ENCRYPTED], "plain": events[Group.PLAIN]}
        await self.fleet.record(given, self.unsearched)

    async def _damage(self, ids: list[str]) -> None:
        """Cut the end of each body, or flip its last bit."""
        async with self.fleet.engine.begin() as connection:
            rows = (await connection.execute(sa.select(outbox.c.event_id, outbox.c.body))).all()
            chosen = [row for row in rows if str(row.event_id) in ids]
            for number, row in enumerate(chosen):
                body = bytes(row.body)
                cut, flipped = body[:-3], body[:-1] + bytes((body[-1] ^ 1,))
                await connection.execute(
                    sa.update(outbox)
                    .where(outbox.c.event_id == row.event_id)
                    .values(body=cut if number % 2 else flipped)
                )

    async def _has(self, *, dead: int, parked: int, effects: int, within: float) -> None:
        wanted = {dead_letters: dead, parked_messages: parked, application.effects: effects}
        counted: dict[str, int] = {}

        async def reached() -> bool:
            counts = [sa.select(sa.func.count()).select_from(each) for each in wanted]
            one_row = sa.select(*(each.scalar_subquery() for each in counts))
            with suppress(DBAPIError, OSError, DatabaseUnavailable):
                async with self.fleet.engine.connect() as connection:
                    row = (await connection.execute(one_row)).one()
                counted.update(zip((each.name for each in wanted), row, strict=True))
            return counted != {} and all(
                counted[table.name] >= least for table, least in wanted.items()
            )

        try:
            await eventually(reached, within=within)
        except AssertionError as late:
            late.add_note(f"rows: {counted} of {[*wanted.values()]}")
            raise

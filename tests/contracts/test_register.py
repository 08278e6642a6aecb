"""
The register of running processes, on both databases.
"""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import processes
from outbox.database.processes import Process, RegisteredProcess
from outbox.database_time import now_plus
from outbox.dead_letters.source import reading
from outbox.errors import DatabaseUnavailable
from outbox.runtime import logs
from outbox.runtime.figures import Figures
from outbox.runtime.probes import Health
from outbox.runtime.process import Availability
from outbox.runtime.register import Register, registered, this_process
from outbox.tables import outbox_processes
from tests.support.eventually import eventually
from tests.support.query_plans import recorded

RELAY = Process(id=uuid4(), role="relay", name="relay", host="a", pid=1, version="1.0")


class Reports:
    """The telemetry of a process, without a log."""

    def __init__(self) -> None:
        self.availability = Availability(logs.get("test"), CollectorRegistry())
        self.figures = Figures(began=time.monotonic())


def a_register(engine: AsyncEngine, health: Health) -> Register:
    reports, short = Reports(), timedelta(milliseconds=10)
    return Register(
        engine,
        RELAY,
        health=health,
        availability=reports.availability,
        figures=reports.figures,
        look_every=short,
    )


async def listed(engine: AsyncEngine) -> list[RegisteredProcess]:
    async with reading(engine) as connection:
        return await processes.registered(connection)


async def age(engine: AsyncEngine, seconds: float) -> None:
    """Let no process have reported for *seconds*."""
    then = now_plus(sa.literal(-seconds))
    async with engine.begin() as connection:
        await connection.execute(sa.update(outbox_processes).values(seen_at=then))


async def test_a_process_is_listed_while_it_runs_and_no_longer(engine):
    telemetry, health = Reports(), Health()
    telemetry.figures.counts["success"] = 7

    async with registered(engine, "consumer", "etl", health=health, telemetry=telemetry):
        await eventually(lambda: listed(engine))
        [found] = await listed(engine)

    own = this_process("consumer", "etl")
    assert (found.role, found.name) == ("consumer", "etl")
    assert (found.host, found.pid, found.version) == (own.host, own.pid, own.version)
    assert found.waiting_for is None
    assert found.figures["since_start"] == {"success": 7}
    assert found.unseen < timedelta(seconds=30)
    assert await listed(engine) == []


async def test_a_row_says_soon_what_its_process_waits_for(engine):
    health = Health("broker")
    register = a_register(engine, health)
    running = asyncio.ensure_future(register.run())

    async def waits_for() -> list[str | None]:
        return [each.waiting_for for each in await listed(engine)]

    async def waits_for_both() -> bool:
        return await waits_for() == ["broker, database"]

    async def waits_for_none() -> bool:
        return await waits_for() == [None]

    health.down("database")
    await eventually(waits_for_both)
    health.waits_for()
    await eventually(waits_for_none)
    running.cancel()


async def test_a_process_whose_row_was_deleted_adds_it_again(engine):
    register = a_register(engine, Health())
    await register.report()
    async with engine.begin() as connection:
        await connection.execute(sa.delete(outbox_processes))

    await register.report()

    assert len(await listed(engine)) == 1


async def test_a_process_that_waits_for_the_schema_adds_no_row(engine):
    """The tables may be others than those that it has checked at its start."""
    await a_register(engine, Health("schema")).report()

    assert await listed(engine) == []


async def test_the_row_of_a_killed_process_ages_and_is_deleted_by_another_after_a_day(engine):
    await processes.add(engine, RELAY, figures={})
    await age(engine, 3_600)
    await processes.add(engine, replace(RELAY, id=uuid4(), pid=2), figures={})

    assert [each.unseen > timedelta(minutes=59) for each in await listed(engine)] == [False, True]

    await age(engine, 90_000)
    await processes.add(engine, replace(RELAY, id=uuid4(), pid=3), figures={})

    assert [each.pid for each in await listed(engine)] == [3]


async def test_a_process_that_stops_takes_the_rows_of_those_that_it_has_replaced(engine):
    """Otherwise they would look like processes that have just gone."""
    killed, another = (
        replace(RELAY, id=uuid4(), host=host, role=role)
        for host, role in (("b", "relay"), ("c", "consumer"))
    )
    for process in (killed, another):
        await processes.add(engine, process, figures={})
    await age(engine, 61)
    recent = replace(RELAY, id=uuid4(), host="d")
    for process in (recent, RELAY):
        await processes.add(engine, process, figures={})

    await processes.remove(engine, RELAY)

    assert {each.host for each in await listed(engine)} == {another.host, recent.host}


async def test_a_process_replaces_one_with_its_process_id_on_its_host(engine):
    """In a container that is restarted, every process has the same id."""
    for name, host in (("relay", "a"), ("relay", "b"), ("relay", "a")):
        await processes.add(engine, replace(RELAY, id=uuid4(), name=name, host=host), figures={})

    assert sorted(each.host for each in await listed(engine)) == ["a", "b"]


async def test_a_register_that_cannot_write_disturbs_nothing(engine, monkeypatch):
    async def unavailable(*_args: object, **_options: object) -> bool:
        raise DatabaseUnavailable("the connection was lost")

    for name in ("update", "remove"):
        monkeypatch.setattr(processes, name, unavailable)
    register = a_register(engine, Health())

    await register.report()
    await register.leave()

    assert await listed(engine) == []


async def test_the_times_of_processes_are_those_of_the_database(engine):
    await processes.add(engine, RELAY, figures={})
    await age(engine, -60)

    [found] = await listed(engine)

    assert found.unseen == timedelta(0)
    assert found.uptime >= timedelta(seconds=59)


async def test_a_report_is_one_statement_that_waits_for_no_other_process(engine):
    register = a_register(engine, Health())
    await register.report()

    with recorded(engine) as statements:
        await register.report()

    words = [text.split()[0] for text, _ in statements if "set_config" not in text]
    assert [word for word in words if word not in {"BEGIN", "COMMIT"}] == ["UPDATE"]

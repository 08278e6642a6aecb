"""
Bytes of WAL for an event in the producer, the relay and the consumer, against rows by hand.
"""

import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.benchmarks import consumption, outbox_rows
from tests.benchmarks.consumption import consuming
from tests.benchmarks.contenders import CREATE_OWN_TABLE, OWN_TABLE
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.progress import FIRST_LEFT, watch
from tests.benchmarks.results import Result, at_most, of_rounds, ratios

EVENTS, PER_SECOND = 10_000, 1_000
LONGEST_SECONDS = 120.0
PRODUCT, BY_HAND = "product", "by hand"
PARTS = ("producer", "relay", "consumer")

_FIRST_LEFT = f"SELECT id FROM {OWN_TABLE} WHERE id >= $1 ORDER BY id LIMIT 1"


class Written:
    """The bytes of WAL that were written during a block."""

    def __init__(self) -> None:
        self.bytes = 0


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    await environment.database.execute(CREATE_OWN_TABLE)
    events = plan.rows(EVENTS)
    found: dict[str, list[float]] = defaultdict(list)
    async with consuming(environment):
        for number in range(1, plan.rounds + 1):
            for name in (BY_HAND, PRODUCT):
                for part, written in (await _written(environment, name, events)).items():
                    found[f"{part}, {name}"].append(written / events)
                each = ", ".join(f"{part} {found[f'{part}, {name}'][-1]:,.0f} B" for part in PARTS)
                plan.say(f"  {name} {number}/{plan.rounds}: {each}")
    await outbox_rows.empty(environment.database)
    return figures(found)


def figures(found: Mapping[str, Sequence[float]]) -> list[Result]:
    """The bytes of the product over those by hand, part by part."""
    return [
        *(
            of_rounds(
                f"wal_bytes_per_event, {part}",
                ratios(found[f"{part}, {PRODUCT}"], found[f"{part}, {BY_HAND}"]),
                "×",
                at_most(1.1),
            )
            for part in PARTS
        ),
        *(of_rounds(f"WAL per event, {name}", some, "B") for name, some in found.items()),
    ]


async def _written(environment: Environment, name: str, events: int) -> dict[str, int]:
    """
    The bytes of each part.

    A checkpoint comes before the rows are written, and none between, so nearly no page is written
    whole: how many are depends on when the last checkpoint was, not on what is compared.
    """
    return {
        "producer": await _by_producer(environment, name, events),
        "relay": await _by_relay(environment, name, events),
        "consumer": await _by_consumer(environment, name, events),
    }


async def _by_producer(environment: Environment, name: str, events: int) -> int:
    await environment.database.execute(f"TRUNCATE outbox, {OWN_TABLE}")
    await outbox_rows.settle_down(environment.database)
    committed = str(environment.directory / f"{secrets.token_hex(4)}.commits")
    seconds = str(events / PER_SECOND)
    source = (
        ["events", committed, seconds, outbox_rows.EVENT_TYPE, str(PER_SECOND)]
        if name == PRODUCT
        else ["rows", committed, seconds, str(PER_SECOND)]
    )
    async with (
        _measured(environment) as written,
        environment.program("tests.benchmarks.producers", *source, ready="ready") as producer,
    ):
        await producer.ended(within=LONGEST_SECONDS)
    return written.bytes


async def _by_relay(environment: Environment, name: str, events: int) -> int:
    database = environment.database
    confirmed = str(environment.directory / f"{secrets.token_hex(4)}.confirms")
    is_product = name == PRODUCT
    table = "outbox" if is_product else OWN_TABLE
    first = await database.fetchval(f"SELECT min(id) FROM {table}")
    async with _measured(environment) as written:
        began = time.monotonic()
        async with (
            environment.relay() if is_product else environment.contender("notified", confirmed)
        ) as relay:
            await database.execute("SELECT pg_notify($1, '')", OWN_TABLE)
            await watch(
                environment,
                relay,
                first=first,
                rows=events,
                began=began,
                within=LONGEST_SECONDS,
                lowest_left=FIRST_LEFT if is_product else _FIRST_LEFT,
            )
    return written.bytes


async def _by_consumer(environment: Environment, name: str, events: int) -> int:
    contender = "default" if name == PRODUCT else consumption.HANDWRITTEN
    await consumption.fill(environment, events)
    async with _measured(environment) as written:
        await consumption.drain(environment, contender, events, within=LONGEST_SECONDS)
    return written.bytes


@asynccontextmanager
async def _measured(environment: Environment) -> AsyncIterator[Written]:
    database, written = environment.database, Written()
    before = await database.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    yield written
    written.bytes = int(
        await database.fetchval(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)", before
        )
    )

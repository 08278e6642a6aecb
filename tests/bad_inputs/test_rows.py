"""
Rows that no producer of ours would write: the database refuses or the relay dead-letters them.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import create_engine
from outbox.tables import outbox as table
from outbox.transports.base import Transport
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.consumer_deployment import broker
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

EXCHANGE = "health_data_exchange"
BOTH = pytest.mark.parametrize(
    "urls",
    [("postgres_url", "rabbitmq_url"), ("sqlite_url", "embedded_broker_url")],
    ids=["servers", "embedded"],
    indirect=True,
)
# What is written into a row, as SQL that both databases understand.
MALFORMED = {
    "an empty key": "routing_key = ''",
    "a key with a line break": f"routing_key = '{LEAK_MARKER}\r\nX'",
    "a blank type": "type = ' '",
    "a type with words of the future": f"type = '{LEAK_MARKER}@2'",
    "an empty correlation id": "correlation_id = ''",
    "a content type that is none": f"content_type = '{LEAK_MARKER}'",
    "headers that are a list": "headers = '[]'",
    "headers that are null": "headers = 'null'",
    "a header that is not allowed": f"""headers = '{{"ssn": "{LEAK_MARKER}"}}'""",
    "a reserved header": """headers = '{"x-death": 1}'""",
    "a header name of 200 bytes": f"""headers = '{{"{"a" * 200}": 1}}'""",
    "a header that is a list": """headers = '{"source": [1]}'""",
    "a header of 64 bits and one": f"""headers = '{{"source": {2**63}}}'""",
    "a header of 5,000 digits": f"""headers = '{{"source": {"9" * 5000}}}'""",
    "a header that is beyond all numbers": """headers = '{"source": 1e400}'""",
    "a header as deep as the database takes": (
        f"""headers = '{{"source": {"[" * 990}{"]" * 990}}}'"""
    ),
}
TEXTS = ("type", "routing_key", "ordering_key", "idempotency_key", "correlation_id")
OTHER_TEXTS = ("content_type", "content_encoding", "exchange")
ONLY_ON_SQLITE = {
    f"{kind} in {column}": f"{column} = {value}"
    for column in (*TEXTS, *OTHER_TEXTS)
    for kind, value in {"no UTF-8": "CAST(x'ff41' AS TEXT)", "a blob": "x'6162'"}.items()
} | {
    "a NUL in a key": "routing_key = 'a' || char(0) || 'b'",
    "headers that are no UTF-8": """headers = CAST(x'7b22736f75726365223a22ff227d' AS TEXT)""",
    "headers that are a blob": "headers = x'7b22736f75726365223a22ff227d'",
}
"""SQLite stores any bytes in a column of text."""


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    database, broker_ = getattr(request, "param", ("postgres_url", "rabbitmq_url"))
    return request.getfixturevalue(database), request.getfixturevalue(broker_)


async def seen_by(broker_url: str) -> Transport:
    transport = broker(broker_url)
    await transport.declare(
        Topology(
            [Exchange(EXCHANGE, "topic")],
            [Queue("seen", {"x-queue-type": "quorum"})],
            [Binding(EXCHANGE, "seen", "test.#")],
        )
    )
    return transport


async def commit(deployment: Deployment, change: str = "") -> str:
    """The id of a new event, whose row is changed as no producer of ours would."""
    event = an_event(payload={"note": LEAK_MARKER})
    async with deployment.engine.begin() as connection:
        await connection.execute(outbox.insert(event))
        if change:
            await connection.exec_driver_sql(
                f"UPDATE outbox SET {change} WHERE id = (SELECT max(id) FROM outbox)"
            )
    return str(event.id)


async def is_drained(deployment: Deployment) -> bool:
    """Whether the outbox is empty; its rows need not be readable."""
    async with deployment.engine.connect() as connection:
        return not await connection.scalar(sa.select(sa.func.count()).select_from(table))


def changes_for(dialect: str) -> dict[str, str]:
    return MALFORMED | ONLY_ON_SQLITE if dialect == "sqlite" else MALFORMED


@BOTH
async def test_rows_that_are_no_events_are_dead_lettered_whole_and_their_neighbours_flow(
    urls, tmp_path: Path
):
    transport = await seen_by(urls[1])
    async with Deployment(*urls, tmp_path) as deployment:
        good = [await commit(deployment)]
        names = {}
        changes = changes_for(deployment.engine.dialect.name)
        for name, change in changes.items():
            names[await commit(deployment, change)] = name
            good.append(await commit(deployment))
        await deployment.relay()

        await eventually(lambda: is_drained(deployment), within=20)
        dead = {names[row["message_id"]]: row for row in await deployment.dead()}

        assert {name: row["reason"] for name, row in dead.items()} == dict.fromkeys(
            changes, "malformed"
        )
        assert dead["a blank type"]["type"] == " "
        assert dead["headers that are a list"]["headers"] == []
        assert {row["attempts"] for row in dead.values()} == {1}
        depth = await transport.depth("seen")
        assert depth is not None
        assert depth.messages == len(good)
        assert LEAK_MARKER not in deployment.logs()
        unreadable = [line for line in deployment.logs().splitlines() if "row_unreadable" in line]
        assert len(unreadable) == len(changes)
        assert any('"detail": "content_type"' in line for line in unreadable)
        assert await deployment.command("relay", "dead", "list") == 0
        for row in dead.values():
            assert await deployment.command("relay", "dead", "show", str(row["id"])) == 0


IMPOSSIBLE = {
    "body": ["NULL"],
    "event_id": ["NULL"],
    "attempts": ["-1", "NULL", "2147483647", "1000001"],
    "priority": ["'urgent'"],
    "headers": ["NULL", f"""'{{"source": "{"x" * 65_536}"}}'"""],
    "type": [f"'{'t' * 129}'"],
    **{
        column: [f"'{'k' * 256}'", f"'{'ü' * 200}'"]
        for column in (*TEXTS[1:], *OTHER_TEXTS, "last_error", "reply_to")
    },
}
IMPOSSIBLE_ON_POSTGRES = {
    "id": ["0", "-7", "17"],
    "body": ["convert_to(repeat('x', 1048577), 'UTF8')"],
    "headers": ["""'{"source": 1e65536}'"""],
}
TIMES = ("created_at", "occurred_at", "not_before", "expires_at")
IMPOSSIBLE_TIMES = {
    "postgresql": [
        "'infinity'",
        "'-infinity'",
        "'20000-01-01'",
        "'0044-03-15 BC'",
        "'9999-06-01'",
        "'1969-01-01'",
    ],
    "sqlite": [
        "'yesterday'",
        "''",
        "'20000-01-01 00:00:00'",
        "7",
        "'2025-02-30 00:00:00'",
        "'2025-19-39 29:59:xx'",
        "'2025-01-01 24:00:00'",
        "'2025-01-01 00:00:abc'",
        "'2025-01-01 00:00:60'",
        "'2025-01-01 00:00:00.'",
        "'2025-01-01 00:00:00.5x'",
        "'2025-01-01 00:00:00+01:00'",
        "x'323032352d30312d30312030303a30303a3030'",
        "'2025-01-01 00:00:00.5' || char(0) || 'x'",
    ],
}
IMPOSSIBLE_ON_SQLITE = {
    "id": ["0", "-7", "9223372036854775807"],
    "attempts": ["'abc'", "1.5"],
    "body": ["'text'", "zeroblob(1048577)"],
    "event_id": ["'evt-1'", f"x'{'61' * 32}'", f"'{'a' * 32}' || char(0)"],
    "headers": ["'oops'"],
}


async def refusal(engine: AsyncEngine, column: str, value: str) -> str:
    """The error of the database for *value* in *column*; empty if it accepts the value."""
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"UPDATE outbox SET {column} = {value}")
    except (IntegrityError, ProgrammingError) as error:
        return str(error.orig)
    return ""


async def test_the_database_refuses_values_that_no_relay_can_read(engine):
    dialect = engine.dialect.name
    times = dict.fromkeys(TIMES, IMPOSSIBLE_TIMES[dialect])
    impossible = [*IMPOSSIBLE.items(), *times.items()]
    only_here = {"sqlite": IMPOSSIBLE_ON_SQLITE, "postgresql": IMPOSSIBLE_ON_POSTGRES}
    impossible += only_here[dialect].items()
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event(payload=LEAK_MARKER)))

    taken = [
        f"{column} = {value}"
        for column, values in impossible
        for value in values
        if column not in await refusal(engine, column, value)
    ]

    assert taken == []


@pytest.mark.parametrize(
    "time", ["2025-01-01 23:59:59.999999", "2024-02-29 00:00:00", "9998-12-31 00:00:00.5"]
)
async def test_a_sqlite_file_takes_every_time_that_a_relay_can_read(sqlite_url, time):
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    changes = ", ".join(f"{column} = '{time}'" for column in TIMES)
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event()))
        await connection.exec_driver_sql(f"UPDATE outbox SET {changes}")
        row = (await connection.execute(sa.select(table))).one()
    await engine.dispose()

    expected = datetime.fromisoformat(time).replace(tzinfo=UTC)
    assert {getattr(row, column) for column in TIMES} == {expected}


async def test_an_id_that_is_taken_is_refused_with_any_payload(engine):
    """So a transaction whose outcome is unknown can be repeated, and tells that it was done."""
    event = an_event(payload={"note": LEAK_MARKER})
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(event))

    for payload in ({"note": LEAK_MARKER}, {"note": "another"}):
        with pytest.raises(IntegrityError) as caught:
            async with engine.begin() as connection:
                await connection.execute(outbox.insert(an_event(id=event.id, payload=payload)))
        assert LEAK_MARKER not in str(caught.value)
        assert "event_id" in str(caught.value)

    async with engine.connect() as connection:
        assert len((await connection.execute(sa.select(table))).all()) == 1

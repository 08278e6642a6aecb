"""
Any row that the table accepts, written by the role with the fewest rights: INSERT on the outbox.

The relay goes on, and each row is published, waits, or is set aside.
"""

import random
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

import outbox
from outbox.tables import dead_letters
from outbox.tables import outbox as table
from tests.bad_inputs.test_rows import BOTH, seen_by
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

ROWS = 250
ROLE = "role_of_any_row"
TEXTS = [
    "'test.a'",
    "'test.a'",
    "''",
    "' '",
    "'nowhere.b'",
    "'ü€😀'",
    f"'{LEAK_MARKER} x'",
    "'a' || chr(10)",
    "repeat('k', 255)",
    "repeat('k', 256)",
    "repeat('ü', 128)",
    "repeat('k', 3000)",
]
OTHERS: dict[str, list[str]] = {
    "type": TEXTS,
    "routing_key": TEXTS,
    "idempotency_key": TEXTS,
    "ordering_key": [*TEXTS, "'key-1'", "'key-2'"],
    "correlation_id": TEXTS,
    "exchange": [*TEXTS, "NULL", "'health_data_exchange'"],
    "content_encoding": [*TEXTS, "'gzip'"],
    "content_type": [*TEXTS, "'text/plain'", "'a/b; c=d'"],
    "last_error": TEXTS,
    "priority": ["'low'", "'high'", "'urgent'", "''"],
    "attempts": ["0", "7", "1000000", "1000001", "2147483647", "-1"],
    "id": ["0", "-7", "1", "9223372036854775807"],
    "occurred_at": ["'1970-01-01'", "'1970-01-02 00:00:00'", "'9998-12-30 00:00:00'", "'x'"],
    "created_at": ["'1970-01-02 00:00:00'", "'9998-12-30 00:00:00'", "'2020-01-01 00:00:00.5'"],
    "not_before": ["'2020-01-01 00:00:00'", "'9998-12-30 00:00:00'", "NULL"],
    "headers": [
        """'{"source": "s"}'""",
        """'{"source": 1.5}'""",
        """'{"source": 1e400}'""",
        """'{"source": null}'""",
        """'{"": {}}'""",
        "'[]'",
        "'7'",
        "'null'",
        "'\"\\u00ff\"'",
        f"'{'[' * 900}{']' * 900}'",
        f"""'{{"source": "{"s" * 2000}"}}'""",
    ],
}
ON_SQLITE = {
    "texts": [
        "CAST(x'ff41' AS TEXT)",
        "CAST(x'c080' AS TEXT)",
        "x'ff'",
        "x''",
        "'a' || char(0) || 'b'",
        "7",
        "1.5",
        "CAST(x'eda080' AS TEXT)",
    ],
    "attempts": ["'7'", "1.0", "1.5", "x'31'", "'x'"],
    "times": ["7", "x'32'", "'2025-01-01 00:00:00' || char(0)", "'2025-01-01 00:00:00Z'"],
    "body": [
        "x''",
        "x'ff'",
        "'text'",
        "7",
        "zeroblob(1048576)",
        "zeroblob(1048577)",
        "zeroblob(0)",
    ],
    "headers": ["x'7b7d'", """CAST(x'7b22736f75726365223a22ff227d' AS TEXT)"""],
}
ON_POSTGRES_BODY = ["''", r"'\xff'", "convert_to(repeat('x', 1048576), 'UTF8')"]


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    database, broker = request.param
    return request.getfixturevalue(database), request.getfixturevalue(broker)


def pools(dialect: str) -> dict[str, list[str]]:
    """SQL expressions for each column."""
    if dialect == "postgresql":
        return {**OTHERS, "body": [*ON_POSTGRES_BODY, "convert_to(repeat('x', 1048577), 'UTF8')"]}
    repeated = "replace(hex(zeroblob({1})), '00', {0})"
    found: dict[str, list[str]] = {}
    for column, values in OTHERS.items():
        found[column] = [
            value.replace("chr(", "char(")
            if not value.startswith("repeat")
            else repeated.format(*value[7:-1].split(", "))
            for value in values
        ]
        if values[: len(TEXTS)] == TEXTS:
            found[column] += ON_SQLITE["texts"]
    for column in ("occurred_at", "created_at", "not_before"):
        found[column] += ON_SQLITE["times"]
    for column in ("attempts", "headers"):
        found[column] += ON_SQLITE[column]
    return {**found, "body": ON_SQLITE["body"]}


def a_row(draw: random.Random, found: dict[str, list[str]], dialect: str, id_: UUID) -> str:
    """An INSERT of a row, some of whose columns no producer of ours would write."""
    body = r"'\x7b7d'" if dialect == "postgresql" else "x'7b7d'"
    row = {"type": "'test.a'", "routing_key": "'test.a'", "idempotency_key": "'k'", "body": body}
    for column in draw.sample(list(found), draw.choice([0, 1, 1, 1, 2, 3])):
        row[column] = draw.choice(found[column])
    row["event_id"] = f"'{id_ if dialect == 'postgresql' else id_.hex}'"
    overriding = ""
    if dialect == "postgresql" and "id" in row and draw.random() < 0.5:
        overriding = "OVERRIDING SYSTEM VALUE "
    return f"INSERT INTO outbox ({', '.join(row)}) {overriding}VALUES ({', '.join(row.values())})"


async def insert(connection: AsyncConnection, statement: str) -> bool:
    """Whether the table accepts the row."""
    try:
        async with connection.begin_nested():
            await connection.exec_driver_sql(statement)
    except (DBAPIError, UnicodeEncodeError):
        return False
    return True


async def states(deployment: Deployment) -> tuple[dict[str, Any], set[str]]:
    """When each row of the outbox is due, by event id, and the ids of the dead letters."""
    dead, hex_ids = set[str](), sa.type_coerce(table.c.event_id, sa.types.NULLTYPE)
    async with deployment.engine.connect() as connection:
        waiting = dict((await connection.execute(sa.select(hex_ids, table.c.not_before))).all())
        dead.update(await connection.scalars(sa.select(dead_letters.c.message_id)))
    return {str(UUID(str(id_))): due for id_, due in waiting.items()}, dead


@BOTH
@pytest.mark.parametrize("seed", [1])
async def test_any_row_that_the_table_accepts_is_published_waits_or_is_set_aside(
    urls, seed, tmp_path: Path
):
    draw = random.Random(seed)
    transport = await seen_by(urls[1])
    async with Deployment(*urls, tmp_path) as deployment:
        dialect = deployment.engine.dialect.name
        found, accepted = pools(dialect), list[str]()
        relay = await deployment.relay()
        async with deployment.engine.begin() as connection:
            if dialect == "postgresql":
                await connection.exec_driver_sql(f"CREATE ROLE {ROLE} NOLOGIN")
                await connection.exec_driver_sql(f"GRANT INSERT ON outbox TO {ROLE}")
                await connection.exec_driver_sql(f"SET LOCAL ROLE {ROLE}")
            for _ in range(ROWS):
                id_ = UUID(int=draw.getrandbits(128))
                if await insert(connection, a_row(draw, found, dialect, id_)):
                    accepted.append(str(id_))
            if dialect == "postgresql":
                await connection.exec_driver_sql("RESET ROLE")
                await connection.exec_driver_sql(f"DROP OWNED BY {ROLE}")
                await connection.exec_driver_sql(f"DROP ROLE {ROLE}")
        neighbours = [an_event() for _ in range(20)]
        async with deployment.engine.begin() as connection:
            for event in neighbours:
                await connection.execute(outbox.insert(event))

        async def are_all_decided() -> bool:
            waiting, _dead = await states(deployment)
            # Rows behind a row of their key that waits are not due either.
            return not {id_ for id_, due in waiting.items() if due is None} - behind

        async with deployment.engine.connect() as connection:
            keyed = sa.select(sa.type_coerce(table.c.event_id, sa.types.NULLTYPE)).where(
                table.c.ordering_key.is_not(None)
            )
            behind = {str(UUID(str(id_))) for id_ in await connection.scalars(keyed)}
        await eventually(are_all_decided, within=30)
        waiting, dead = await states(deployment)

        assert len(accepted) > ROWS // 3
        assert relay.running
        assert not {str(event.id) for event in neighbours} & ({*waiting} | dead)
        depth = await transport.depth("seen")
        assert depth is not None
        gone = {*accepted} - {*waiting} - dead
        assert depth.messages >= len(neighbours)
        assert len(gone) > len(accepted) // 4
        assert LEAK_MARKER not in deployment.logs()
        assert "Traceback" not in deployment.logs()
        assert await deployment.command("relay", "dead", "list", "--limit", "1000") == 0
        exported = ("--bodies", "--because", "test", str(tmp_path / "dead"))
        assert await deployment.command("relay", "dead", "export", *exported) == 0
        assert await deployment.command("relay", "status") == 0

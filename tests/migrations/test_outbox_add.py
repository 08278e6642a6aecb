"""
The SQL function outbox_add refuses the values that Python refuses, and no others.
"""

import json
import random
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox import Event, HealthDataMessage
from outbox.database.engine import create_engine
from outbox.errors import InvalidEvent
from outbox.tables import outbox
from outbox.wire import row_codec
from tests.support.builders import an_upload

CALLS = 1_500
# White space and control characters of ASCII and Unicode, and characters that only look like them.
SIGNS = (
    "aZ09-_.. /\t\n\x01\x1c\x7fü€😀"
    "\x80\x85\x9f\xa0\u1680\u180e\u2000\u200a\u200b\u2028\u3000\ufeff"
)
NAMES = [
    *("source", "traceparent", "schema-version", "tracestate"),
    *("x-death", "x-match", "cc", "bcc", "amq", "Source", "so_urce", "", "a" * 65, "ü", "a\n"),
]
HEADERS = [
    *("text", "", "ü" * 512, "ü" * 513, "x" * 1024, "x" * 1025, "a\nb", "a b", "\x7f", "\x85"),
    *(0, -(2**63), 2**63 - 1, 2**63, -(2**63) - 1, 10**30, True, False),
    *(1.0, 1.5, 1e300, None, [], [1], {}, {"a": 1}),
]
PAYLOADS = [{}, [], "text", 7, None, True, {"a": {"b": [1.5, "ü"]}}, {"number": 10**4299}]
TOO_MUCH = [10**4300, [-(10**4300)], "x" * 1_048_576, {"a": "ü" * 600_000}]


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def text(draw: random.Random) -> str:
    match draw.randrange(6):
        case 0:
            return "".join(draw.choices(SIGNS, k=draw.randrange(4)))
        case 1:
            return draw.choice(SIGNS) * draw.choice([1, 63, 64, 85, 86, 127, 128, 129, 255, 256])
        case _:
            return draw.choice(["a.b", "word", "a-b_c.D", "a..b", ".a"])


def arguments(draw: random.Random) -> dict[str, Any]:
    """Arguments of a call; usually one of them is odd."""
    found: dict[str, Any] = {"type": "a.b", "payload": draw.choice(PAYLOADS)}
    for name in draw.sample(
        [
            *("type", "exchange", "routing_key", "ordering_key", "idempotency_key"),
            "correlation_id",
        ],
        draw.randrange(3),
    ):
        found[name] = text(draw)
    if draw.random() < 0.2:
        found["priority"] = draw.choice(["low", "normal", "high", "", "urgent", "LOW"])
    if draw.random() < 0.5:
        names = draw.sample(NAMES, draw.choice([0, 1, 1, 2]))
        found["headers"] = {name: draw.choice(HEADERS) for name in names}
    if draw.random() < 0.02:
        found["payload"] = draw.choice([*TOO_MUCH, nested(400), nested(2_000)])
    return found


def python_accepts(values: dict[str, Any]) -> bool:
    try:
        Event(**values)
    except InvalidEvent:
        return False
    return True


async def sql_accepts(connection: AsyncConnection, values: dict[str, Any]) -> bool:
    """Raises every error but the refusal by a check."""
    as_json = {"payload", "headers"}
    given = {
        name: json_text(value) if name in as_json else value for name, value in values.items()
    }
    named = ", ".join(
        f"{name} => CAST(:{name} AS {'jsonb' if name in as_json else 'text'})" for name in given
    )
    try:
        async with connection.begin_nested():
            await connection.execute(sa.text(f"SELECT outbox_add({named})"), given)
    except sa.exc.IntegrityError:
        return False
    return True


def json_text(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return _by_hand(value)


def _by_hand(value: Any) -> str:
    """Numbers with more digits than Python writes, and lists deeper than it writes."""
    if isinstance(value, int):
        return ("-" if value < 0 else "") + "1" + "0" * 4_300
    levels = 0
    while isinstance(value, list) and value:
        (value,) = value
        levels += 1
    if isinstance(value, int):
        return "[" * levels + _by_hand(value) + "]" * levels
    return "[" * (levels + 1) + "]" * (levels + 1)


@pytest.mark.parametrize("seed", [1])
async def test_sql_and_python_refuse_the_same_values(postgres_url, seed):
    draw = random.Random(seed)
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    differing, accepted = [], 0
    async with engine.begin() as connection:
        for _ in range(CALLS):
            values = arguments(draw)
            expected = python_accepts(values)
            accepted += expected
            if await sql_accepts(connection, values) != expected:
                differing.append((expected, values))
        # What is accepted is an event for the relay too.
        rows = (await connection.execute(sa.select(outbox))).mappings().all()
        for row in rows:
            row_codec.from_row(row)
    await engine.dispose()

    assert [(expected, str(values)[:200]) for expected, values in differing] == []
    assert CALLS // 5 < accepted < CALLS * 4 // 5
    assert len(rows) == accepted


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "record_type": ["A", "a_1", "Z" * 64, "Z" * 65, "", "1a", "_a", "a b", "a.b", "a\n", "ü"],
        "processing_priority": ["low", "normal", "high", "", "urgent", "LOW"],
    }.items(),
)
async def test_an_upload_by_sql_is_refused_and_routed_as_in_python(postgres_url, field, values):
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    base = an_upload().model_dump(mode="json")
    others = [None, 7, True, [], {}, ["a"], 1.5]
    async with engine.begin() as connection:
        for value in [*values, *others]:
            payload = {**base, field: value}
            routed = None
            with suppress(InvalidEvent):
                routed = HealthDataMessage(**payload).to_event().routing_key
            accepted = await sql_accepts(
                connection, {"type": "health.data.uploaded", "payload": payload}
            )
            assert accepted == (routed is not None), value
            if accepted:
                newest = sa.select(outbox.c.routing_key).order_by(outbox.c.id.desc()).limit(1)
                assert await connection.scalar(newest) == routed
    await engine.dispose()


async def test_an_event_that_a_trigger_drops_is_an_error(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE FUNCTION dropping() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NULL; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER mine BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION dropping()"
        )
    with pytest.raises(sa.exc.DBAPIError, match="a trigger or a rule of another program"):
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SELECT outbox_add('a.b', '{}')")
    await engine.dispose()

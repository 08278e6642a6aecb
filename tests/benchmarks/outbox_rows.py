"""
The rows that benchmarks put into the outbox.

Bodies are random JSON, mostly of 1,024 bytes, from a stock that is made beforehand, so that
neither compression nor the random generator matters. All other columns are as a producer writes
them, including event ids that grow with time.
"""

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

BODY_BYTES = 1_024
STOCK = 1_000
LARGER = {10 * BODY_BYTES: 100, 100 * BODY_BYTES: 20}
"""How many bodies there are of other sizes."""
EVENT_TYPE = "benchmark.row"

_CREATE_STOCK = """
CREATE TABLE benchmark_bodies (size int, n int, body bytea NOT NULL, PRIMARY KEY (size, n))
"""

# UUIDv7: 48 bits of time, which go on by one a row, then the version and chance.
_INSERT = """
INSERT INTO outbox (
    event_id, type, routing_key, ordering_key, idempotency_key, body, not_before
)
SELECT made.event_id, $2, $2, $3, made.event_id::text, stock.body,
       CASE WHEN $4 THEN clock_timestamp() + interval '1 day' END
  FROM (
    SELECT n, overlay(
        gen_random_uuid()::text
        PLACING overlay(lpad(to_hex(began.milliseconds + n), 12, '0') PLACING '-' FROM 9 FOR 0)
            || '-7'
        FROM 1 FOR 15
    )::uuid AS event_id
      FROM generate_series(1, $1::int) AS n,
           (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS milliseconds) AS began
  ) AS made
  JOIN benchmark_bodies AS stock ON stock.size = $5 AND stock.n = made.n % $6
"""
_FIRST = "SELECT min(id) FROM outbox WHERE ordering_key IS NULL AND not_before IS NULL"


@dataclass(frozen=True, slots=True)
class Rows:
    """
    Some rows of one kind.

    Args:
        ordering_key: The key that all of them have, or None.
        waiting: Those that may not be published before tomorrow.
        body_bytes: `BODY_BYTES`, or one of `LARGER`.

    """

    count: int
    ordering_key: str | None = None
    waiting: Literal["none", "first", "all"] = "none"
    body_bytes: int = BODY_BYTES


def body(jitter: random.Random, *, number: int = 0, size: int = BODY_BYTES) -> bytes:
    """A JSON body of *size* bytes."""
    frame = len(json.dumps({"number": f"{number:06}", "data": ""}))
    data = base64.b64encode(jitter.randbytes(size)).decode()[: size - frame]
    return json.dumps({"number": f"{number:06}", "data": data}).encode()


async def stock_up(connection: Any) -> None:
    """Make the bodies that `fill` uses."""
    jitter = random.Random(1)
    await connection.execute(_CREATE_STOCK)
    await connection.copy_records_to_table(
        "benchmark_bodies",
        records=[
            (size, number, body(jitter, number=number, size=size))
            for size, count in {BODY_BYTES: STOCK, **LARGER}.items()
            for number in range(count)
        ],
    )
    await connection.execute("ANALYZE benchmark_bodies")


async def empty(connection: Any) -> None:
    """Remove all rows, and the dead tuples of earlier ones."""
    await connection.execute("TRUNCATE outbox")


async def fill(connection: Any, rows: Sequence[Rows]) -> int:
    """
    Insert *rows* in one transaction, in this order.

    Returns the id of the first row that is ready and has no key; the others of its kind follow it
    without a gap.
    """
    async with connection.transaction():
        for some in rows:
            first = 1 if some.waiting == "first" else 0
            for count, waiting in ((first, True), (some.count - first, some.waiting == "all")):
                if count:
                    stock = LARGER.get(some.body_bytes, STOCK)
                    await connection.execute(
                        *(_INSERT, count, EVENT_TYPE, some.ordering_key, waiting),
                        *(some.body_bytes, stock),
                    )
        first_id = await first_ready(connection)
    if first_id is None:
        raise ValueError("none of the rows is ready and has no key")
    return first_id


async def first_ready(connection: Any) -> int | None:
    """The id of the first row that is ready and has no key, if there is one."""
    found: int | None = await connection.fetchval(_FIRST)
    return found


async def settle_down(connection: Any) -> None:
    """
    Vacuum and make a checkpoint.

    Otherwise autovacuum and a checkpoint would run during the measurement.
    """
    await connection.execute("VACUUM (ANALYZE) outbox")
    await connection.execute("CHECKPOINT")

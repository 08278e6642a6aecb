"""
Producer, relay and consumer with encrypted events, beside themselves with plain ones.
"""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from outbox.encryption import key_ring
from outbox.encryption.encryptor import Encryptor
from tests.benchmarks import consumption, outbox_rows, prepared_messages
from tests.benchmarks.consumption import consuming
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.progress import watch
from tests.benchmarks.results import Result, at_least, of_rounds, ratios
from tests.benchmarks.throughput import last_line

PLAIN, ENCRYPTED = "plain", "encrypted"
GOALS = {
    "relay": 0.95,
    "producer": 0.85,
    "consumer default": 0.85,
    "consumer batch": 0.85,
    "consumer on_batch": 0.85,
}
COUNTS = {
    "relay": 120_000,
    "producer": 40_000,
    "consumer default": 40_000,
    "consumer batch": 60_000,
    "consumer on_batch": 100_000,
}
LONGEST_SECONDS = 40.0

_COLUMNS = (
    *("event_id", "type", "routing_key", "idempotency_key", "content_type", "content_encoding"),
    "body",
)
_CREATE = "CREATE TABLE benchmark_{name} AS SELECT {columns} FROM outbox WITH NO DATA"
_RECORD = "INSERT INTO outbox ({columns}) SELECT {columns} FROM benchmark_{name}"


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    ring = key_ring.new_ring(datetime.now(UTC) - timedelta(minutes=1))
    keys = environment.directory / "keys.json"
    keys.touch(mode=0o600)
    keys.write_text(json.dumps(ring.to_document()))
    settings: dict[str, dict[str, str]] = {
        PLAIN: {},
        ENCRYPTED: {"MQ_ENCRYPTION_KEYS": keys.as_uri()},
    }
    encryptors = {PLAIN: None, ENCRYPTED: Encryptor(ring)}
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    await _prepare(environment, encryptors, plan.rows(COUNTS["relay"]))
    async with consuming(environment):
        for number in range(1, plan.rounds + 1):
            for part, full in COUNTS.items():
                count = plan.rows(full)
                # In turn the first: a machine that gets slower or faster favours neither.
                for name in (PLAIN, ENCRYPTED)[:: 1 if number % 2 else -1]:
                    variables = settings[name]
                    if part == "relay":
                        rate = await _relayed(environment, name, count)
                    elif part == "producer":
                        rate = await _recorded(environment, count, variables)
                    else:
                        handler = part.removeprefix("consumer ")
                        await consumption.fill(environment, count, encryptor=encryptors[name])
                        turn = await consumption.drain(
                            environment, handler, count, within=LONGEST_SECONDS, **variables
                        )
                        rate = turn.rate
                        cpu[f"{part}, {name}"].append(turn.cpu)
                    plan.say(f"  {part}, {name} {number}/{plan.rounds}: {rate:,.0f}/s")
                    rates[f"{part}, {name}"].append(rate)
    await outbox_rows.empty(environment.database)
    return figures(rates, cpu)


def figures(
    rates: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]]
) -> list[Result]:
    """
    The rate of each part with encryption over its rate without, and the values themselves.

    *cpu* has the seconds of CPU for 1,000 messages, which a busy machine changes less than rates.
    """
    return [
        *(
            of_rounds(
                f"encrypted_vs_plain, {part}",
                ratios(rates[f"{part}, {ENCRYPTED}"], rates[f"{part}, {PLAIN}"]),
                "×",
                at_least(bound),
            )
            for part, bound in GOALS.items()
        ),
        *(of_rounds(f"{name}: rate", some, "events/s") for name, some in rates.items()),
        *(of_rounds(f"{name}: CPU per 1,000", some, "s") for name, some in cpu.items()),
    ]


async def _prepare(
    environment: Environment, encryptors: Mapping[str, Encryptor | None], count: int
) -> None:
    """Make *count* rows of each kind, in tables of their own."""
    for name, encryptor in encryptors.items():
        await environment.database.execute(_CREATE.format(name=name, columns=", ".join(_COLUMNS)))
        await environment.database.copy_records_to_table(
            f"benchmark_{name}",
            columns=_COLUMNS,
            records=[_record(encryptor) for _ in range(count)],
        )


def _record(encryptor: Encryptor | None) -> list[Any]:
    row = prepared_messages.a_row(outbox_rows.EVENT_TYPE, outbox_rows.EVENT_TYPE)
    if encryptor is not None:
        row = encryptor.encrypted(row, compression="none")
    return [row[column] for column in _COLUMNS]


async def _relayed(environment: Environment, name: str, count: int) -> float:
    """Rows per second, of rows that are there when the relay starts."""
    await outbox_rows.empty(environment.database)
    await environment.database.execute(_RECORD.format(name=name, columns=", ".join(_COLUMNS)))
    first = await outbox_rows.first_ready(environment.database)
    assert first is not None
    await outbox_rows.settle_down(environment.database)
    await environment.purge()
    began = time.monotonic()
    async with environment.relay() as relay:
        curve = await watch(
            environment, relay, first=first, rows=count, began=began, within=LONGEST_SECONDS
        )
    going = curve.under_way(count)
    return going.rate(going.samples[0].gone)


async def _recorded(environment: Environment, count: int, variables: Mapping[str, str]) -> float:
    """Events per second of a producer."""
    await outbox_rows.empty(environment.database)
    await outbox_rows.settle_down(environment.database)
    module = "tests.benchmarks.producers"
    async with environment.program(
        module, "bulk", str(count), ready="ready", **variables
    ) as producer:
        said = json.loads(last_line(await producer.ended(within=2 * LONGEST_SECONDS)))
    return float(said["events"]) / float(said["seconds"])

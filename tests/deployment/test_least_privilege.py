"""
Each role does its work with our commands, and with no right but those that `deploy/` gives it.
"""

import json
import sys
from typing import Any

import asyncpg
import pytest

from tests.support.encrypted_rows import a_ring, a_row, write_ring
from tests.support.eventually import eventually
from tests.support.installation import TARGET, Installation
from tests.support.processes import PreparedProcess
from tests.support.roles import execute
from tests.support.servers import Management

UPLOAD = {
    "bucket": "uploads",
    "key": "raw/1.json",
    "user_id": "someone",
    "upload_timestamp_utc": "2026-11-30T00:00:00Z",
    "record_type": "BloodGlucoseRecord",
    "correlation_id": "c-1",
    "content_hash": "a" * 64,
    "file_size_bytes": 1,
    "record_count": 1,
}
FAILS = {"record_count": 2**40, "content_hash": "b" * 64}
"""The column of the handler's table has 32 bits."""
DASHBOARD = (
    "SELECT count(*), min(created_at) FROM mq.outbox",
    "SELECT source, reason, count(*), max(last_at) FROM mq.dead_letters GROUP BY ROLLUP (1, 2)",
    "SELECT type, status, count(*) FROM mq.processed_messages GROUP BY ROLLUP (1, 2)",
    "SELECT error_class, error_place, count(*) FROM mq.failing_messages GROUP BY ROLLUP (1, 2)",
    "SELECT count(*), min(due_at) FROM mq.parked_messages",
    "SELECT role, count(*), max(seen_at) FROM mq.outbox_processes GROUP BY ROLLUP (1)",
)
"""What a dashboard asks as the role monitoring."""
INSERT = (
    "INSERT INTO mq.outbox"
    " (event_id, type, routing_key, idempotency_key, body, content_encoding)"
    " VALUES ($1, $2, $3, $4, $5, 'outbox-aes256gcm')"
)
ADD = "SELECT mq.outbox_add('health.data.uploaded', $1, routing_key => $2)"
ROUTING_KEY = "health.processing.bloodglucoserecord.normal"


async def add(installation: Installation, *payloads: object) -> None:
    """Record events as the producer does it in SQL."""
    connection = await asyncpg.connect(installation.database("producer"))
    try:
        for payload in payloads:
            await connection.execute(ADD, json.dumps(payload), ROUTING_KEY)
    finally:
        await connection.close()


def process(installation: Installation, name: str, *words: str) -> PreparedProcess:
    role = "consumer_etl" if name == "consumer" else name
    return PreparedProcess(
        [sys.executable, "-m", name, "run", *words],
        log=installation.directory / f"{name}.log",
        env=installation.settings(name, role),
    )


async def good(installation: Installation, role: str, *command: str, **more: str) -> str:
    """Run a command that has to succeed; return what it printed."""
    ended = await installation.run(role, *command, **more)
    assert ended.code == 0, ended.err + ended.out
    return ended.out


async def letters(installation: Installation) -> int:
    rows = await execute(installation.administration, "SELECT id FROM mq.dead_letters")
    return len(rows)


async def retries(installation: Installation) -> int:
    """The messages that the consumer has published to its first retry queue."""
    depths = await Management(installation.api("monitoring")).queues(installation.vhost_name)
    return depths["health_data_processing.etl.retry.30s"].ready


async def uploads(installation: Installation) -> int:
    return len(await execute(installation.administration, "SELECT message_id FROM uploads"))


async def keys_are_operated(installation: Installation, because: tuple[str, str]) -> None:
    """Rewrap an encrypted event, and let the outbox refuse plaintext for a time."""
    file = installation.directory / "keys.json"
    settings = {"MQ_ENCRYPTION_KEYS": write_ring(file, a_ring(30, 10))}
    await execute_with(installation.database("producer"), INSERT, a_row(a_ring(30)))
    for command in (("rewrap", *because), ("rotate", *because), ("status",)):
        await good(installation, "key_operator", "relay", "keys", *command, **settings)
    await good(
        installation, "key_operator", "relay", "keys", "retire", "key-30", *because, **settings
    )
    await good(installation, "owner", "relay", "keys", "require", *because)
    with pytest.raises(asyncpg.CheckViolationError, match="must be encrypted"):
        await add(installation, UPLOAD)
    await good(installation, "owner", "relay", "keys", "allow-plaintext", *because)
    await execute(installation.administration, "DELETE FROM mq.outbox")


async def execute_with(url: str, statement: str, row: dict[str, Any]) -> None:
    connection = await asyncpg.connect(url)
    try:
        names = ("event_id", "type", "routing_key", "idempotency_key", "body")
        await connection.execute(statement, *(row[name] for name in names))
    finally:
        await connection.close()


async def test_every_role_does_its_work(installation):
    management = {"MQ_MANAGEMENT_URL": installation.api("monitoring")}
    await good(installation, "relay", "relay", "check")
    await good(
        installation, "consumer", "consumer", "check", TARGET, user="consumer_etl", **management
    )
    await add(installation, UPLOAD, {"no": "upload"}, UPLOAD | FAILS)

    async with (
        process(installation, "relay"),
        process(installation, "consumer", TARGET),
    ):
        await eventually(lambda: letters(installation), within=30)
        await eventually(lambda: uploads(installation), within=30)
        await eventually(lambda: retries(installation), within=30)
        listed = await good(installation, "operator", "consumer", "dead", "list", TARGET)
        assert "1 of 1" in listed
        because = ("--because", "a test")
        await good(
            installation, "operator", "consumer", "dead", "replay", TARGET, "--all", *because
        )
        await eventually(lambda: letters(installation), within=30)

    await good(installation, "operator", "consumer", "dead", "drop", TARGET, "--all", *because)
    assert await letters(installation) == 0
    for role in ("relay", "operator"):
        await good(installation, role, "relay", "status")
    for statement in DASHBOARD:
        assert await execute(installation.database("monitoring"), statement)
    await keys_are_operated(installation, because)
    head = await good(installation, "operator", "relay", "audit", "head", "--publish")
    verified = ("relay", "audit", "verify", "--head", head.strip())
    assert "as they were recorded" in await good(installation, "auditor", *verified)
    assert "replay" in await good(installation, "auditor", "relay", "audit", "list")
    audited = await execute(installation.database("auditor"), "SELECT action FROM mq.audit_log")
    assert {"replay", "drop"} <= {row["action"] for row in audited}

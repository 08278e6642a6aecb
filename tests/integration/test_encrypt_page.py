"""
The program of `docs/how-to/encrypt.md`, as it stands there, across the switch to encryption.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from consumer import Consumer, Message
from consumer.testing import running
from outbox import Event, producer_encryption
from tests.support.encryption import a_ring
from tests.support.other_clients.programs import programs
from tests.support.pages import REPOSITORY
from tests.support.processes import ChildProcess

PAGE = REPOSITORY / "docs" / "how-to" / "encrypt.md"
PROGRAM = "bridge_dedup.py"


@pytest.fixture(autouse=True)
def choice_of_the_process() -> Iterator[None]:
    before = producer_encryption.chosen()
    yield
    producer_encryption.use(before)


async def test_the_program_lets_events_from_before_and_after_the_switch_be_duplicates(
    postgres_url, rabbitmq_url, tmp_path
):
    seen: list[Any] = []
    board = Consumer("board", bindings=["ward.left"])

    @board.on("ward.left")
    async def left(message: Message[Any], _session: AsyncSession) -> None:
        seen.append(message.payload)

    ring = a_ring()
    keys, file = tmp_path / "keys.json", tmp_path / PROGRAM
    keys.write_text(json.dumps(ring.to_document()))
    file.write_text(programs(PAGE)[PROGRAM])
    environment = {
        "MQ_ENCRYPTION_KEYS": keys.as_uri(),
        "DATABASE_URL": postgres_url,
        "PYTHONPATH": str(REPOSITORY),
    }

    def discharge(number: int, key: str = "discharge-4711") -> Event:
        return Event("ward.left", number, idempotency_key=key)

    async with running(board, database=postgres_url, broker=rabbitmq_url) as app:
        outbox.use_encryption(None)
        await app.record(discharge(1), discharge(2, key="discharge-4712"))
        await app.drain()
    outbox.use_encryption(ring)
    async with running(board, database=postgres_url, broker=rabbitmq_url) as app:
        await app.record(discharge(3))
        await app.drain()
        async with ChildProcess(
            [sys.executable, str(file)], log=tmp_path / "log", env=environment
        ) as program:
            assert "keys bridged" in await program.wait_for_line("bridged", within=30)
        await app.record(discharge(4), discharge(5, key="discharge-4712"))
        await app.drain()

    assert seen == [1, 2, 3]

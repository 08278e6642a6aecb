"""
Encrypted events between Node.js and this library, in both directions, and by the test vectors.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from consumer import Consumer, Message
from consumer.testing import running
from outbox import Event, producer_encryption
from outbox.encryption.digests import Digests
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_ring import KeyRing
from outbox.tables import outbox as outbox_table
from outbox.wire.encrypted import ENCODING
from tests.support import running_consumer
from tests.support.builders import TRACEPARENT
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.encryption import a_ring, encrypted_message, encrypted_row
from tests.support.other_clients.programs import COPIED, Programs
from tests.support.pages import REPOSITORY

pytestmark = pytest.mark.timeout(600)  # the first run of a checkout installs the libraries

VECTORS = REPOSITORY / "tests" / "vectors" / "encrypted-body.json"
READER = REPOSITORY / "tests" / "support" / "other_clients" / "read_vectors.mjs"
NEWER_NODE = "zstd needs Node.js 22.15"
STARTED = 60.0


@pytest.fixture
def ring() -> Iterator[KeyRing]:
    before, ring = producer_encryption.chosen(), a_ring()
    outbox.use_encryption(ring)
    yield ring
    producer_encryption.use(before)


def test_node_reads_all_vectors(other_clients):
    vectors = json.loads(VECTORS.read_text())
    command = [other_clients.node, str(READER), str(COPIED / "encrypted_body.mjs"), str(VECTORS)]

    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)

    for vector, read in zip(vectors["bodies"], found["bodies"], strict=True):
        private = vector["private"] or {}
        expected = {
            "body": vector["body"],
            "correlation_id": private.get("correlation_id"),
            "headers": private.get("headers", {}),
        }
        assert read == expected or (vector["compression"] == "zstd" and read == NEWER_NODE)
    assert found["refused"] == [vector["error"] for vector in vectors["refused"]]
    assert found["digests"] == [vector["digest"] for vector in vectors["digests"]]


async def test_node_records_an_event_for_a_consumer_and_reads_one_of_a_producer(
    postgres_url, rabbitmq_url, other_clients, ring, tmp_path
):
    seen: list[Message[Any]] = []
    board = Consumer("board", bindings=["ward.left"])

    @board.on("ward.left")
    async def left(message: Message[Any], _session: AsyncSession) -> None:
        seen.append(message)

    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(ring.to_document()))
    url = make_url(postgres_url).set(drivername="postgresql")
    files = Programs(
        other_clients,
        tmp_path,
        BROKER_URL=rabbitmq_url,
        DATABASE_URL=url.render_as_string(hide_password=False),
        KEYS_FILE=str(keys),
    )
    admitted = Event(
        "ward.admitted",
        {"bed": "Bett 17 ü"},
        idempotency_key="admission-4711",
        correlation_id="visit-4712",
        headers={"traceparent": TRACEPARENT, "source": "ward-board"},
    )
    async with running(board, database=postgres_url, broker=rabbitmq_url) as app:
        async with files.program("with_pg_encrypted.mjs") as program:
            assert await program.wait(within=STARTED) == 0, program.tail
        async with app.session() as session:
            (row,) = (await session.execute(sa.select(outbox_table))).mappings().all()
        drained = await app.drain()
    async with (
        running_consumer.running(board, postgres_url, rabbitmq_url),  # declares the exchange
        files.program("with_amqplib_encrypted.mjs") as program,
        broker(rabbitmq_url).publisher() as publisher,
    ):
        await program.wait_for_line("consuming", within=STARTED)
        row_of_python = encrypted_row(Encryptor(ring), admitted)
        await publisher.publish([encrypted_message(row_of_python, EXCHANGE)], within=SOON)
        line = await program.wait_for_line("Bett 17")

    assert (row["content_encoding"], row["headers"]) == (ENCODING, {})
    for value in ("visit-4711", "ward-7", "ward-board", "pg_encrypted"):
        assert value not in str(dict(row))
    assert len(drained.handled) == 1
    (message,) = seen
    assert (message.payload, message.correlation_id) == ({"client": "pg_encrypted"}, "visit-4711")
    assert message.headers == {"source": "ward-board"}
    digest = Digests(ring.digest_key()).text_of("idempotency_key", "admission-4711")
    for value in ("ward.admitted", "Bett 17 ü", "visit-4712", "source: 'ward-board'", digest):
        assert value in line

"""
Persons are erased under load, while relays, consumers and the eraser are killed.

Their events are everywhere: in the outbox, ready and behind a waiting one of their key; in queues
of the broker, fresh and to be retried; parked; dead-lettered.
"""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from outbox.audit_tables import audit_log
from outbox.encryption.body_format import subject_of
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_tables import subject_keys
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.key_store.reader import SubjectKeyStore
from outbox.tables import dead_letters
from tests.support import persons
from tests.support.crowd import CONSUMERS, RELAYS, Crowd, Processes, name, pause
from tests.support.deployment import Deployment
from tests.support.environment import Environment
from tests.support.eventually import eventually
from tests.support.keys import SETTING, key_store
from tests.support.persons import STUMBLES, seen
from tests.support.processes import PreparedProcess

RETRY_SECONDS = 6
MOST_SECONDS = 60
ERASED, KILLS = 10, 3


@pytest.mark.selection
@pytest.mark.timeout(600)
async def test_erased_persons_are_erased_everywhere_and_others_lose_nothing(
    environment, empty_postgres_url, tmp_path
):
    await erased_under_load(environment, empty_postgres_url, tmp_path, count=100, events=2_500)


@pytest.mark.timeout(3600)
async def test_persons_are_erased_among_a_hundred_thousand_events(
    environment, empty_postgres_url, tmp_path
):
    await erased_under_load(environment, empty_postgres_url, tmp_path, count=1_000, events=100_000)


async def erased_under_load(
    environment: Environment, key_url: str, directory: Path, *, count: int, events: int
) -> None:
    async with recording(environment, key_url, directory, count) as crowd:
        processes = Processes(crowd.deployment)
        await spread(crowd, processes, events)
        chosen = random.Random(1).sample(range(count), ERASED)
        load = asyncio.create_task(crowd.record(events - crowd.recorded))
        kills = asyncio.create_task(processes.kill_in_turn(random.Random(2)))
        took, printed = await erase(crowd, chosen, directory)
        before = await crowd.effects_of(chosen)
        await load
        kills.cancel()
        await asyncio.wait([kills])
        await processes.start(*({*CONSUMERS, *RELAYS} - processes.alive))
        others = [person for person in range(count) if person not in chosen]
        await eventually(lambda: crowd.has_seen_all(others), within=1_200)
        await eventually(crowd.is_empty, within=60)

        logging.getLogger(__name__).info("erased in %.1f s: %s", took, printed)
        assert took <= MOST_SECONDS
        await nothing_is_lost_or_repeated(crowd, others)
        await nothing_can_be_read(crowd, chosen, before)
        verified = await crowd.deployment.run("relay", "audit", "verify")
        assert verified.code == 0, verified.err
        announced = await crowd.rows(sa.select(persons.erased.c.person))
        assert sorted(person for (person,) in announced) == sorted(chosen)


async def spread(crowd: Crowd, processes: Processes, events: int) -> None:
    """Bring events into every state; see the module."""
    await processes.start(*CONSUMERS, *RELAYS)
    await crowd.record(events * 3 // 10)
    await crowd.record(crowd.count, STUMBLES)
    await eventually(crowd.has_parked, within=600)
    await eventually(crowd.has_dead, within=600)
    processes.stop(*CONSUMERS)
    await crowd.record(events // 4)
    await eventually(crowd.is_published, within=300)
    processes.stop(*RELAYS)
    await crowd.record(crowd.count, not_before=datetime.now(UTC) + timedelta(seconds=6))
    await crowd.record(events // 8)
    assert await crowd.has_parked()


async def erase(
    crowd: Crowd, chosen: Iterable[int], directory: Path
) -> tuple[float, dict[str, Any]]:
    """Erase the persons, by a command that is killed a few times; the seconds that it took."""
    file = directory / "subjects"
    file.write_text("\n".join(name(person) for person in chosen))
    arguments = ["erase", "--subject-file", str(file), "--because", "request 17", "--json"]
    jitter, began = random.Random(3), time.monotonic()
    for number in range(KILLS):
        command = PreparedProcess(
            [sys.executable, "-m", "relay", *arguments],
            log=directory / f"killed-{number}.log",
            env=crowd.deployment.settings,
        )
        async with command:
            await pause(jitter.uniform(0.3, 2.0))
            command.kill()
    ended = await crowd.deployment.run("relay", *arguments)
    took = time.monotonic() - began
    assert ended.code == 0, ended.err
    return took, json.loads(ended.out)


async def nothing_is_lost_or_repeated(crowd: Crowd, others: Iterable[int]) -> None:
    effects = await crowd.effects()
    for person in others:
        expected = crowd.expected(person)
        assert effects["ordered", person] == expected
        assert sorted(effects["free", person]) == expected


async def nothing_can_be_read(
    crowd: Crowd, chosen: Sequence[int], before: dict[tuple[str, int], list[int]]
) -> None:
    """No key is left, no effect came after the erasure, and no body has a name in clear."""
    assert await crowd.effects_of(chosen) == before
    digests = [crowd.store.digest(name(person)) for person in chosen]
    keys = await crowd.store.rows(
        sa.select(subject_keys).where(subject_keys.c.digest.in_(digests))
    )
    assert [(key.state, key.wrapped) for key in keys] == [("erased", None)] * ERASED
    erased_at = min(key.erased_at for key in keys)
    late = sa.select(sa.func.count()).where(seen.c.person.in_(chosen), seen.c.at > erased_at)
    assert await crowd.count_of(late) == 0
    dead = await crowd.rows(sa.select(dead_letters.c.body))
    assert not any(b"patient" in body for (body,) in dead)
    ids = {key.id for key in keys}
    assert ids & {subject_of(body) for (body,) in dead}
    reader = SubjectKeyStore(crowd.store.engine, crowd.store.ring, setting=SETTING)
    async with reader.holding(ids) as held:
        assert held.keys == dict.fromkeys(ids)
    evidence = await crowd.rows(
        sa.select(audit_log.c.details).where(audit_log.c.action == "erase")
    )
    assert {UUID(key) for (each,) in evidence for key in each["keys"]} == ids


@asynccontextmanager
async def recording(
    environment: Environment, key_url: str, directory: Path, count: int
) -> AsyncIterator[Crowd]:
    settings = {
        "MQ_ENCRYPTION_KEYS": key_url,
        "MQ_RETRY_DELAYS": f"[{RETRY_SECONDS}]",
        "MQ_REQUIRE_ENCRYPTION": "true",
        "MQ_DELIVERY_LIMIT": "1000",
    }
    deployment = Deployment(
        environment.database_url, environment.broker_url, directory, **settings
    )
    async with key_store(key_url) as store, deployment:
        async with deployment.engine.begin() as connection:
            await persons.create(connection)
        asking = KeyConnection(key_url, setting=SETTING)
        producer = SubjectKeyDatabase(asking, store.ring, setting=SETTING)
        yield Crowd(deployment, store, count, Encryptor(store.ring, subjects=producer))
        await asyncio.to_thread(asking.close)

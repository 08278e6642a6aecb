"""
An erasure that is killed at each point of its protocol: the same command finishes it.

| killed                                            | the keys then are    |
|---------------------------------------------------|----------------------|
| before and after the keys are refused             | active, erasing      |
| before and after they are destroyed               | erasing, erased      |
| before and after events and evidence are recorded | erased               |
| before and after the keys say that they are       | erased               |
"""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit_tables import audit_log
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_tables import subject_keys
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.tables import outbox
from tests.support.breakpoints import Breakpoint, BreakpointProxy
from tests.support.commands import CommandLine
from tests.support.keys import SETTING, KeyStore, key_store
from tests.support.processes import PreparedProcess
from tests.support.wire_protocols import COMMIT, Matcher, statement

pytestmark = pytest.mark.fault

SUBJECTS = ("patient-1", "patient-2")
STEPS = {
    "refused": ("keys", statement("UPDATE subject_keys SET state")),
    "destroyed": ("keys", statement("erased_at=")),
    "announced": ("outbox", statement("INSERT INTO audit_log")),
    "noted": ("keys", statement("SET announced_at")),
}


@pytest.fixture
async def store(empty_postgres_url: str) -> AsyncIterator[KeyStore]:
    async with key_store(empty_postgres_url) as made:
        connection = KeyConnection(made.url, setting=SETTING)
        producer = SubjectKeyDatabase(connection, made.ring, setting=SETTING)
        for each in SUBJECTS:
            producer.key_of(made.digest(each))
        connection.close()
        yield made


def trap(proxy: BreakpointProxy, when: str, step: Matcher) -> Breakpoint:
    """The point before the COMMIT of *step* reaches the server, or after it, unheard."""
    return (proxy.before if when == "before" else proxy.after)(step, COMMIT)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_the_same_command_finishes_an_erasure_that_was_killed(  # noqa: PLR0917 - fixtures
    step: str, when: str, store: KeyStore, postgres_url: str, server: AsyncEngine, tmp_path: Path
) -> None:
    where, matcher = STEPS[step]
    (tmp_path / "subjects").write_text("\n".join(SUBJECTS))
    command = ["relay", "erase", "--subject-file", "subjects", "--because", "request 17", "--json"]
    direct = {
        "MQ_DATABASE_URL": postgres_url,
        "MQ_ENCRYPTION_KEYS": store.url,
        "MQ_BROKER_URL": f"sqlite:///{tmp_path / 'broker.db'}",
    }

    async with BreakpointProxy(store.url if where == "keys" else postgres_url) as proxy:
        name = "MQ_ENCRYPTION_KEYS" if where == "keys" else "MQ_DATABASE_URL"
        point = trap(proxy, when, matcher)
        child = PreparedProcess(
            [sys.executable, "-m", *command],
            log=tmp_path / "killed.log",
            env={**direct, name: proxy.url},
            cwd=tmp_path,
        )
        async with child:
            await point.wait_until_hit()
            child.kill()
    ended = await CommandLine(tmp_path, **direct).run(*command)

    assert ended.code == 0, ended.err
    done = json.loads(ended.out)
    assert (done["unknown"], done["unfinished"]) == (0, 0)
    rows = await store.rows(sa.select(subject_keys))
    assert [(row.state, row.wrapped) for row in rows] == [("erased", None)] * 2
    async with server.connect() as connection:
        keys = (await connection.scalars(sa.select(outbox.c.idempotency_key))).all()
        evidence = (await connection.scalars(sa.select(audit_log.c.details))).all()
    assert len(set(keys)) == len(keys) == 2
    assert [set(each["keys"]) for each in evidence] == [{str(row.id) for row in rows}]

"""
Each role of a key database does its work, and with no right but those that `deploy/` gives it.
"""

import json
import secrets
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.engine import make_url

from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_database import KeyDatabase
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.errors import KeysUnavailable
from outbox.key_store.reader import SubjectKeyStore
from tests.support.installation import DEPLOY, Installation, psql
from tests.support.keys import SETTING, KeyStore, engine_of, key_store
from tests.support.roles import execute

ROLES = ("owner", "producer", "consumer", "eraser")


class KeyRoles:
    """The roles of `key_roles.sql`, which can log in, on the key database *store*."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self.prefix = f"t{secrets.token_hex(5)}_key_"
        self.password = secrets.token_hex(8)

    def url(self, role: str) -> str:
        url = make_url(self.store.url).set(drivername="postgresql")
        url = url.set(username=self.prefix + role, password=self.password)
        return url.render_as_string(hide_password=False)

    async def apply(self) -> None:
        script = DEPLOY / "postgres" / "key_roles.sql"
        for _ in range(2):  # it may be run at any time
            await psql(self.store.url, script, f"prefix={self.prefix}")
        names = [self.prefix + role for role in ROLES]
        logins = [f"ALTER ROLE {each} LOGIN PASSWORD '{self.password}'" for each in names]
        await execute(self.store.url, *logins, "SELECT 1")

    async def drop(self) -> None:
        for role in ROLES:
            name = self.prefix + role
            await execute(self.store.url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


@pytest.fixture
async def roles(empty_postgres_url: str) -> AsyncIterator[KeyRoles]:
    async with key_store(empty_postgres_url) as store:
        made = KeyRoles(store)
        await made.apply()
        yield made
        await store.engine.dispose()
        await made.drop()


async def test_each_role_of_a_key_database_does_its_work_and_no_other(
    roles: KeyRoles, installation: Installation
) -> None:
    connection = KeyConnection(roles.url("producer"), setting=SETTING)
    keys = KeyDatabase(connection, setting=SETTING)
    producer = SubjectKeyDatabase(connection, keys, setting=SETTING)
    found = producer.key_of(roles.store.digest("patient-17"))
    connection.close()
    async with engine_of(roles.url("consumer")) as engine:
        reader = SubjectKeyStore(engine, roles.store.ring, setting=SETTING)
        async with reader.holding({found.id}) as held:
            assert held.keys == {found.id: found.key}
    other = KeyConnection(roles.url("consumer"), setting=SETTING)
    with pytest.raises(KeysUnavailable, match="lacks a privilege"):
        SubjectKeyDatabase(other, roles.store.ring, setting=SETTING).key_of(bytes(32))
    other.close()

    (installation.directory / "subjects").write_text("patient-17\n")
    ended = await installation.run(
        "eraser",
        *("relay", "erase", "--subject-file", "subjects", "--because", "request 17", "--json"),
        user="relay",
        MQ_ENCRYPTION_KEYS=roles.url("eraser"),
    )

    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["erased"] == 1
    # Its event `subject.erased` waits in the outbox, encrypted by a key of this test alone.
    assert await execute(installation.administration, "DELETE FROM mq.outbox RETURNING id")
    with pytest.raises(Exception, match="permission denied"):
        await execute(roles.url("eraser"), "SELECT wrapped FROM subject_keys")

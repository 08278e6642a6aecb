"""
Statements that Postgres refuses to the roles of `deploy/postgres/roles.sql`.
"""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url

from outbox.database.location import CREATED_BY, RENAMED
from tests.support.installation import ROLES, ROLES_SCRIPT, SCHEMA, Installation
from tests.support.roles import documented_rights, execute

AUDIT = (
    "INSERT INTO mq.audit_log (run, actor, action, source, because, messages)"
    " VALUES (gen_random_uuid(), 'x', 'drop', 'x', 'x', 1)"
)
COMPLETED = (
    "INSERT INTO processed_messages (consumer, idempotency_key, message_id, type, status)"
    " VALUES ('etl', 'k', gen_random_uuid(), 'test.happened', 'completed')"
)
REPLACEMENT = (
    "INSERT INTO outbox (event_id, type, routing_key, idempotency_key, body)"
    " SELECT event_id, 'test.happened', 'test', 'k', 'x' FROM outbox"
    " ON CONFLICT (event_id) DO UPDATE SET body = excluded.body"
)
ROW = "(event_id, type, routing_key, idempotency_key, body)"
VALUES = "(gen_random_uuid(), 'test.happened', 'test', 'k', '{}')"

ASKED = (
    "INSERT INTO approvals (action, source, selection, because, requested_by, requested_role)"
    " VALUES ('show_body', 'etl', '{}', 'x', 'x', 'another')"
)

ACTS = {
    "a producer reads which events wait": ("producer", "SELECT id FROM outbox"),
    "a producer reads a body": ("producer", "SELECT body FROM outbox"),
    "a producer changes an event": ("producer", "UPDATE outbox SET body = 'x'"),
    "a producer deletes an event": ("producer", "DELETE FROM outbox"),
    "a producer empties the outbox": ("producer", "TRUNCATE outbox"),
    "a producer replaces an event": ("producer", REPLACEMENT),
    "a producer reads a dead letter": ("producer", "SELECT body FROM dead_letters"),
    "a producer reads the ordering secret": ("producer", "SELECT secret FROM ordering_secret"),
    "a producer disables a trigger": ("producer", "ALTER TABLE outbox DISABLE TRIGGER ALL"),
    "a producer creates a table": ("producer", "CREATE TABLE mine (id integer)"),
    "a producer shadows a function": (
        "producer",
        "CREATE FUNCTION mq.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now()'",
    ),
    "a producer repairs ids": ("producer", "SELECT outbox_repair_ids()"),
    "a relay changes a body": ("relay", "UPDATE outbox SET body = 'x'"),
    "a relay changes where an event goes": ("relay", "UPDATE outbox SET routing_key = 'x'"),
    "a relay inserts an event": ("relay", f"INSERT INTO outbox {ROW} VALUES {VALUES}"),
    "a relay deletes a dead letter": ("relay", "DELETE FROM dead_letters"),
    "a relay changes a dead letter": ("relay", "UPDATE dead_letters SET body = 'x'"),
    "a relay reads what consumers processed": ("relay", "SELECT * FROM processed_messages"),
    "a relay reads parked messages": ("relay", "SELECT * FROM parked_messages"),
    "a relay reads the effects of a handler": ("relay", "SELECT * FROM public.uploads"),
    "a relay reads the audit log": ("relay", "SELECT * FROM audit_log"),
    "a relay changes its exchange": ("relay", "UPDATE outbox_targets SET target = 'x'"),
    "a relay changes the ordering secret": ("relay", "UPDATE ordering_secret SET secret = 'x'"),
    "a consumer reads a body of the outbox": ("consumer", "SELECT body FROM outbox"),
    "a consumer deletes an event": ("consumer", "DELETE FROM outbox"),
    "a consumer that is no producer inserts an event": (
        "consumer",
        f"INSERT INTO outbox {ROW} VALUES {VALUES}",
    ),
    "a consumer reads the ordering secret": ("consumer", "SELECT secret FROM ordering_secret"),
    "a consumer deletes a dead letter": ("consumer", "DELETE FROM dead_letters"),
    "a consumer takes the queue of another": (
        "consumer",
        "UPDATE outbox_targets SET target = 'x'",
    ),
    "a consumer adds to the audit log": ("consumer", AUDIT),
    "a consumer reads the effects of a handler": ("consumer", "SELECT * FROM public.uploads"),
    "an operator deletes from the audit log": ("operator", "DELETE FROM audit_log"),
    "an operator changes the audit log": ("operator", "UPDATE audit_log SET actor = 'x'"),
    "an operator empties the audit log": ("operator", "TRUNCATE audit_log"),
    "an operator changes the head of the audit log": (
        "operator",
        "UPDATE audit_head SET rows = 0",
    ),
    "an operator removes the head of the audit log": ("operator", "DELETE FROM audit_head"),
    "an operator approves a request in another name": (
        "operator",
        f"{ASKED}; UPDATE approvals SET approved_role = 'third', approved_at = now()",
    ),
    "an operator uses a request that is not approved": (
        "operator",
        f"{ASKED}; UPDATE approvals SET used_at = now()",
    ),
    "an operator changes what was requested": (
        "operator",
        f"{ASKED}; UPDATE approvals SET source = 'other'",
    ),
    "an operator removes a request": ("operator", f"{ASKED}; DELETE FROM approvals"),
    "an operator reads a body of the outbox": ("operator", "SELECT body FROM outbox"),
    "an operator reads headers of the outbox": ("operator", "SELECT headers FROM outbox"),
    "an operator deletes an event": ("operator", "DELETE FROM outbox"),
    "an operator inserts a dead letter": (
        "operator",
        "INSERT INTO dead_letters (source, reason, attempts, body) VALUES ('etl', 'x', 1, 'x')",
    ),
    "an operator reads a body of a parked message": (
        "operator",
        "SELECT body FROM parked_messages",
    ),
    "an operator marks a message as processed": ("operator", COMPLETED),
    "an operator reads the ordering secret": ("operator", "SELECT secret FROM ordering_secret"),
    "a key operator reads a key of an event": (
        "key_operator",
        "SELECT idempotency_key FROM outbox",
    ),
    "a key operator changes where an event goes": (
        "key_operator",
        "UPDATE outbox SET routing_key = 'x'",
    ),
    "a key operator deletes an event": ("key_operator", "DELETE FROM outbox"),
    "a key operator lets the outbox accept plaintext": (
        "key_operator",
        "ALTER TABLE outbox DISABLE TRIGGER ALL",
    ),
    "an auditor changes the audit log": ("auditor", "UPDATE audit_log SET actor = 'x'"),
    "an auditor adds to the audit log": ("auditor", AUDIT),
    "an auditor approves a request": ("auditor", "UPDATE approvals SET approved_at = now()"),
    "an auditor changes the head": ("auditor", "UPDATE audit_head SET rows = 0"),
    "an auditor reads a dead letter": ("auditor", "SELECT body FROM dead_letters"),
    "monitoring reads a body of the outbox": ("monitoring", "SELECT body FROM outbox"),
    "monitoring reads headers": ("monitoring", "SELECT headers FROM outbox"),
    "monitoring reads an ordering key": ("monitoring", "SELECT ordering_key FROM outbox"),
    "monitoring reads a body of a dead letter": ("monitoring", "SELECT body FROM dead_letters"),
    "monitoring reads whole dead letters": ("monitoring", "SELECT * FROM dead_letters"),
    "monitoring reads idempotency keys": (
        "monitoring",
        "SELECT idempotency_key FROM processed_messages",
    ),
    "monitoring deletes an event": ("monitoring", "DELETE FROM outbox"),
    "monitoring reads the audit log": ("monitoring", "SELECT * FROM audit_log"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def written(installation: Installation) -> AsyncIterator[Installation]:
    """An installation with a row in each table, so that no act is refused for want of one."""
    rows = [
        f"INSERT INTO mq.outbox {ROW} VALUES {VALUES}",
        "INSERT INTO mq.dead_letters (source, reason, attempts, body) VALUES ('x', 'x', 1, 'x')",
        AUDIT,
    ]
    await execute(installation.administration, *rows, "SELECT 1")
    yield installation
    await execute(
        installation.administration,
        "DELETE FROM mq.outbox",
        "DELETE FROM mq.dead_letters",
        "SELECT 1",
    )


async def as_role(installation: Installation, role: str, statement: str) -> None:
    connection = await asyncpg.connect(
        installation.database(role), server_settings={"search_path": SCHEMA}
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("act", ACTS)
async def test_postgres_refuses_that(act, written):
    role, statement = ACTS[act]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_role(written, role, statement)


async def test_postgres_refuses_an_id_that_a_producer_chooses(installation):
    columns = ROW.replace("(", "(id, ")
    statement = f"INSERT INTO outbox {columns} OVERRIDING SYSTEM VALUE VALUES (999, {VALUES[1:]}"

    with pytest.raises(asyncpg.CheckViolationError, match="outbox_id: leave the id out"):
        await as_role(installation, "producer", statement)


@pytest.mark.parametrize("role", [role for role in ROLES if role != "owner"])
async def test_no_role_can_become_the_owner(role, installation):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_role(installation, role, f"SET ROLE {installation.prefix}owner")


async def test_the_script_takes_back_a_right_that_a_person_has_granted(installation):
    monitoring = installation.prefix + "monitoring"
    held = f"SELECT has_table_privilege('{monitoring}', 'mq.outbox', 'SELECT')"
    await execute(
        installation.administration, f"GRANT SELECT ON mq.outbox TO {monitoring}", "SELECT 1"
    )
    assert [tuple(row) for row in await execute(installation.administration, held)] == [(True,)]

    await installation.apply_roles()

    assert [tuple(row) for row in await execute(installation.administration, held)] == [(False,)]


async def test_processes_delete_dead_letters_and_bodies_only_with_a_retention(written):
    acts = [
        (role, statement)
        for role in ("relay", "consumer")
        for statement in (
            "DELETE FROM dead_letters WHERE id = 0",
            "UPDATE dead_letters SET body = '', body_expired_at = now() WHERE id = 0",
        )
    ]
    await written.apply_roles("retention=yes")
    for role, statement in acts:
        await as_role(written, role, statement)
    checked = await written.run("relay", "relay", "check", MQ_DEAD_LETTER_RETENTION_DAYS="1")
    assert "ok: schema mq is at revision" in checked.out, checked.err

    await written.apply_roles()

    for role, statement in acts:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_role(written, role, statement)


async def test_a_role_that_is_no_superuser_can_run_the_script(postgres_server, tmp_path):
    """As on a managed server; it also moves the tables that the same role has migrated before."""
    async with postgres_server.database() as url:
        made = Installation(administration=url, vhost="", management="", directory=tmp_path)
        administrator = f"{made.prefix}owner_of_all"
        name = make_url(url).database
        await execute(
            url,
            f"CREATE ROLE {administrator} LOGIN CREATEROLE PASSWORD '{made.password}'",
            f'GRANT CREATE ON DATABASE "{name}" TO {administrator}',
            f"GRANT pg_read_all_stats TO {administrator} WITH ADMIN OPTION",
            "SELECT 1",
        )
        migrated = await made.migrate(by="owner_of_all")
        assert migrated.code == 0, migrated.err

        await made.apply_roles(by=made.database("owner_of_all"))

        owners = await execute(
            url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'mq'"
        )
        assert [row["tableowner"] for row in owners] == [f"{made.prefix}owner"]
        await execute(
            url,
            f"DROP OWNED BY {administrator} CASCADE",
            *(f"DROP OWNED BY {made.prefix}{role} CASCADE" for role in ROLES),
            *(f"DROP ROLE {made.prefix}{role}" for role in ROLES),
            f"DROP ROLE {administrator}",
            "SELECT 1",
        )


def test_the_script_names_every_table():
    script = ROLES_SCRIPT.read_text()

    for table in {*CREATED_BY} - {*RENAMED}:
        assert f"{table}," in script or f"{table}}}" in script
    assert documented_rights("relay")

"""
Tables whose rows the database hides from a process, or keeps although it reports a change.
"""

import pytest
from sqlalchemy.engine import make_url

from consumer import checks
from outbox.database.engine import create_engine
from outbox.database.verification import Expectation
from outbox.errors import SchemaMismatch
from relay import assembly
from relay.settings import RelaySettings
from tests.support import ordered
from tests.support.commands import CommandLine
from tests.support.roles import documented_rights, execute, role

RELAY = assembly.expectation(RelaySettings())
CONSUMER = checks.expectation(ordered.consumer, "queue")
DROPPING = (
    "CREATE FUNCTION dropping() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
)
TABLES = [
    ("relay", RELAY, "outbox"),
    ("relay", RELAY, "dead_letters"),
    ("relay", RELAY, "ordering_secret"),
    ("relay", RELAY, "outbox_targets"),
    ("relay", RELAY, "outbox_relay_version"),
    ("consumer", CONSUMER, "processed_messages"),
    ("consumer", CONSUMER, "parked_messages"),
    ("consumer", CONSUMER, "dead_letters"),
    ("consumer", CONSUMER, "audit_log"),
]


async def problem(url: str, expected: Expectation) -> str:
    """The lines with which a process of *expected* ends; empty if it starts."""
    engine = create_engine(make_url(url), pool_size=1, application_name="test")
    try:
        await expected.verify(engine)
    except SchemaMismatch as error:
        return str(error)
    finally:
        await engine.dispose()
    return ""


@pytest.mark.parametrize(("process", "expected", "table"), TABLES)
async def test_row_level_security_without_a_policy_for_all_rows_is_refused(
    postgres_url, process, expected, table
):
    async with role(postgres_url, *documented_rights(process)) as (name, url):
        assert await problem(url, expected) == ""

        await execute(postgres_url, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        line = await problem(url, expected)
        assert line.startswith(f"{table}: row level security hides or refuses rows")
        assert f"for the role {name}: CREATE POLICY outbox_relay ON {table} TO {name}" in line
        assert await problem(postgres_url, expected) == ""  # a superuser sees all rows

        # The statement in the line is the solution.
        await execute(postgres_url, line.partition(f"{name}: ")[2].partition(", or ALTER")[0])
        assert await problem(url, expected) == ""


POLICIES = {
    "none": ([], False),
    "all": (["USING (true) WITH CHECK (true)"], True),
    "all, by USING alone": (["USING (true)"], True),
    "all, for everybody": (["TO PUBLIC USING (true)"], True),
    "some": (["USING (type <> 'hidden')"], False),
    "some, and all": (["USING (type <> 'hidden')", "USING (true)"], True),
    "one for each command": (
        ["FOR SELECT USING (true)", "FOR UPDATE USING (true)", "FOR DELETE USING (true)"],
        True,
    ),
    "no DELETE": (["FOR SELECT USING (true)", "FOR UPDATE USING (true)"], False),
    "no new rows": (["USING (true) WITH CHECK (type <> 'hidden')"], False),
    "a restriction": (["USING (true)", "AS RESTRICTIVE USING (type <> 'hidden')"], False),
    "a restriction to all": (["USING (true)", "AS RESTRICTIVE USING (true)"], True),
    "another role": (["TO pg_monitor USING (true)"], False),
}


async def test_policies_for_all_rows_are_accepted_and_others_are_refused(postgres_url):
    async with role(postgres_url, *documented_rights("relay")) as (_, url):
        await execute(postgres_url, "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY")
        found = {}
        for name, (policies, _) in POLICIES.items():
            names = [f"policy_{number}" for number in range(len(policies))]
            await execute(
                postgres_url,
                *(
                    f"CREATE POLICY {policy} ON outbox {words}"
                    for policy, words in zip(names, policies, strict=True)
                ),
                "SELECT 1",
            )
            found[name] = await problem(url, RELAY) == ""
            await execute(
                postgres_url, *(f"DROP POLICY {policy} ON outbox" for policy in names), "SELECT 1"
            )

    assert found == {name: is_accepted for name, (_, is_accepted) in POLICIES.items()}


TARGET = "tests.support.ordered:consumer"
READ = {
    ("relay", "status"): {"outbox", "dead_letters"},
    ("relay", "dead", "list"): {"dead_letters"},
    ("relay", "dead", "show", "1"): {"dead_letters"},
    ("relay", "dead", "export", "-"): {"dead_letters"},
    ("relay", "dead", "drop", "--all", "--dry-run"): {"dead_letters"},
    ("relay", "dead", "drop", "--all", "--because", "test"): {"dead_letters", "audit_log"},
    ("relay", "dead", "replay", "--all", "--because", "test"): {
        "dead_letters",
        "audit_log",
        "outbox",
    },
    ("relay", "topology", "--adopt", "--because", "test"): {"outbox_targets", "audit_log"},
    ("consumer", "status", TARGET): {"processed_messages", "parked_messages", "dead_letters"},
    ("consumer", "purge", TARGET): {"processed_messages", "parked_messages"},
    ("consumer", "dead", "list", TARGET): {"dead_letters"},
    ("consumer", "dead", "replay", TARGET, "--all", "--dry-run"): {
        "dead_letters",
        "processed_messages",
    },
    ("consumer", "dead", "replay", TARGET, "--all", "--because", "test"): {
        "dead_letters",
        "processed_messages",
        "audit_log",
    },
}


async def test_a_command_names_the_tables_whose_rows_it_does_not_see(
    postgres_url, embedded_broker_url, tmp_path
):
    rights = {
        *documented_rights("relay"),
        *documented_rights("consumer"),
        *documented_rights("operator"),
    }
    tables = sorted({table for tables in READ.values() for table in tables})
    async with role(postgres_url, *rights) as (_, url):
        run = CommandLine(tmp_path, MQ_DATABASE_URL=url, MQ_BROKER_URL=embedded_broker_url)
        assert (await run.run("relay", "status")).code == 0
        await execute(
            postgres_url,
            *(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY" for table in tables),
            "SELECT 1",
        )
        for command, expected in READ.items():
            ended = await run.run(*command)

            named = {line.split(":")[1].strip() for line in ended.err.splitlines()}
            assert (ended.code, named, ended.out) == (2, expected, ""), command
            assert "CREATE POLICY outbox_relay ON" in ended.err


async def test_a_command_that_only_reads_needs_no_policy_for_changes(
    postgres_url, embedded_broker_url, tmp_path
):
    async with role(postgres_url, *documented_rights("operator")) as (_, url):
        await execute(
            postgres_url,
            "ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY reads ON dead_letters FOR SELECT USING (true)",
        )
        run = CommandLine(tmp_path, MQ_DATABASE_URL=url, MQ_BROKER_URL=embedded_broker_url)

        assert (await run.run("relay", "dead", "list")).code == 0
        dropped = await run.run("relay", "dead", "drop", "--all", "--because", "test")
        assert dropped.code == 2
        assert "dead_letters: row level security hides or refuses rows" in dropped.err


async def test_row_level_security_that_binds_the_owner_is_refused(postgres_url):
    async with role(postgres_url, *documented_rights("relay")) as (name, url):
        await execute(
            postgres_url,
            f"ALTER TABLE outbox OWNER TO {name}",
            "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY",
        )
        assert await problem(url, RELAY) == ""

        await execute(postgres_url, "ALTER TABLE outbox FORCE ROW LEVEL SECURITY")
        assert "outbox: row level security" in await problem(url, RELAY)


REPLACED = {
    "a rule replaces statements": ["CREATE RULE r AS ON DELETE TO outbox DO INSTEAD NOTHING"],
    "is a view": [
        "ALTER TABLE outbox RENAME TO events",
        "CREATE VIEW outbox AS SELECT * FROM events",
    ],
    "is a materialized view": [
        "ALTER TABLE outbox RENAME TO events",
        "CREATE MATERIALIZED VIEW outbox AS SELECT * FROM events",
    ],
}


@pytest.mark.parametrize("words", REPLACED)
async def test_a_table_that_a_rule_or_a_view_replaces_is_refused(postgres_url, words):
    await execute(postgres_url, *REPLACED[words])

    assert f"outbox: {words}" in await problem(postgres_url, RELAY)


async def test_a_rule_that_also_does_something_else_is_accepted(postgres_url):
    await execute(
        postgres_url,
        "CREATE TABLE counted (type text)",
        "CREATE RULE r AS ON INSERT TO outbox DO ALSO INSERT INTO counted VALUES (NEW.type)",
    )

    assert await problem(postgres_url, RELAY) == ""


async def test_tables_that_move_to_another_schema_are_refused_while_a_process_runs(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    found = await RELAY.verify(engine)
    await RELAY.verify_again(engine, found)

    user = make_url(postgres_url).username
    await execute(
        postgres_url,
        f'CREATE SCHEMA "{user}"',
        f'CREATE TABLE "{user}".outbox (LIKE public.outbox INCLUDING ALL)',
    )
    with pytest.raises(SchemaMismatch, match=f"outbox: is now found in schema {user}"):
        await RELAY.verify_again(engine, found)

    await execute(postgres_url, f'DROP SCHEMA "{user}" CASCADE')
    await RELAY.verify_again(engine, found)
    await engine.dispose()


async def test_a_check_warns_of_triggers_that_may_change_the_audit_log_or_drop_events(
    postgres_url, embedded_broker_url, tmp_path
):
    run = CommandLine(tmp_path, MQ_DATABASE_URL=postgres_url, MQ_BROKER_URL=embedded_broker_url)
    assert (await run.run("relay", "topology")).code == 0
    assert "audit_log" not in (await run.run("relay", "check")).err

    await execute(postgres_url, "ALTER TABLE audit_log DISABLE TRIGGER ALL")
    done = await run.run("relay", "check")
    assert done.code == 0
    lines = [line for line in done.err.splitlines() if line.startswith("warning: audit_log")]
    assert len(lines) == 2
    await execute(postgres_url, *(line.rpartition("missing: ")[2] for line in lines), "SELECT 1")
    await execute(postgres_url, DROPPING)
    await execute(
        postgres_url,
        "CREATE TRIGGER mine BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION dropping()",
    )
    said = (await run.run("relay", "check")).err
    assert "audit_log" not in said
    assert "warning: outbox: the trigger mine runs before each INSERT" in said

"""
The chain of the audit log outside of the commands: in copies of a database, and for an auditor.
"""

import asyncio
import re

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.audit import approvals
from outbox.audit.log import Action, StatedFilters
from outbox.audit.pin import head_of
from outbox.audit.verification import Fault, Problem, verify
from outbox.audit_tables import approvals as requests
from outbox.database.engine import create_engine
from outbox.errors import ApprovalNeeded
from tests.support.audit import AWKWARD, UNCHAINED, an_audit, record, without_triggers
from tests.support.pages import REPOSITORY
from tests.support.roles import execute
from tests.support.servers.fleet import POSTGRES

PAGE = REPOSITORY / "docs" / "how-to" / "copy-a-database.md"
TABLES = ("--table=audit_log", "--table=audit_head", "--table=approvals")


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def copy(source: str, target: str, *options: str) -> None:
    programs = POSTGRES.programs()
    dump = await asyncio.create_subprocess_exec(
        *(programs / "pg_dump", *options, "--dbname", libpq(source)),
        stdout=asyncio.subprocess.PIPE,
    )
    rows, _ = await dump.communicate()
    restore = await asyncio.create_subprocess_exec(
        *(programs / "psql", "--quiet", "--set=ON_ERROR_STOP=1", libpq(target)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    await restore.communicate(rows)
    assert (dump.returncode, restore.returncode) == (0, 0)


def documented(word: str) -> list[str]:
    """The statements of the page that switch triggers on or off."""
    return re.findall(rf"alter table \w+ {word} trigger \w+", PAGE.read_text())


@pytest.mark.parametrize("kind", ["whole", "rows"])
async def test_copies_keep_the_chain_and_go_on_with_it(
    kind, postgres_url, postgres_server, template_database
):
    source = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    await record(source, 3)
    with pytest.raises(ApprovalNeeded):
        await approvals.required(source, an_audit(), Action.SHOW_BODY, approval=None)
    pinned = await head_of(source)
    await source.dispose()
    template = template_database if kind == "rows" else "template1"

    async with postgres_server.database(template=template) as url:
        if kind == "rows":
            await execute(url, *documented("disable"), "SELECT 1")
            await copy(postgres_url, url, "--data-only", *TABLES)
            await execute(url, *documented("enable"), "SELECT 1")
        else:
            await copy(postgres_url, url)
        target = create_engine(make_url(url), pool_size=2, application_name="test")
        await record(target, 2)
        found = await verify(target, pinned=pinned)
        async with target.connect() as connection:
            asked = await connection.scalar(sa.select(requests.c.action))
        await target.dispose()

    assert (found.head.rows, found.fault, asked) == (6, None, "show_body")


async def test_the_query_of_the_page_finds_what_the_command_finds(postgres_url):
    page = (REPOSITORY / "docs" / "reference" / "audit-chain.md").read_text()
    query = page.partition("```sql\n")[2].partition("```")[0]
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    await without_triggers(engine)
    await execute(postgres_url, UNCHAINED.format(id=1), "SELECT setval('audit_log_id_seq', 1)")
    await execute(postgres_url, "ALTER TABLE audit_log ENABLE TRIGGER ALL", "SELECT 1")
    await record(engine, 5, selection=StatedFilters(AWKWARD))
    assert await execute(postgres_url, query) == []

    await without_triggers(engine)
    await execute(postgres_url, "DELETE FROM audit_log WHERE id = 3", "SELECT 1")
    await execute(postgres_url, "UPDATE audit_log SET actor = 'x' WHERE id = 5", "SELECT 1")

    assert [row["id"] for row in await execute(postgres_url, query)] == [4, 5]
    assert (await verify(engine)).fault == Fault(Problem.DOES_NOT_FOLLOW, 4)
    await engine.dispose()

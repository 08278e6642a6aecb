"""
Alembic of an application that shares its database with the outbox.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy.engine import make_url

import outbox
from outbox.database import location, migrate
from tests.support.commands import CommandLine
from tests.support.pages import REPOSITORY

ENV = """
import sqlalchemy as sa
from alembic import context

import outbox

application = sa.MetaData()
sa.Table("uploads", application, sa.Column("id", sa.Integer, primary_key=True))

engine = sa.create_engine({url!r})
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata={target},
        include_schemas={include_schemas},
        {line}
    )
    with context.begin_transaction():
        context.run_migrations()
"""
ALONE, TOGETHER = "application", "[application, outbox.metadata]"


def documented_line(hook: str) -> str:
    page = (REPOSITORY / "docs" / "how-to" / "record-events.md").read_text()
    found = re.search(rf"^ *({hook}=.*,)$", page, re.MULTILINE)
    assert found
    return found[1]


class Installation(NamedTuple):
    """A migrated database, by its URL for a synchronous driver, and the settings of its relay."""

    url: str
    settings: dict[str, str]


@pytest.fixture(params=["sqlite_url", "postgres_url", "empty_postgres_url"])
def installation(request) -> Installation:
    """Give a migrated database; the last one has the tables in a schema of their own."""
    url = request.getfixturevalue(request.param)
    settings = {"MQ_DATABASE_URL": url}
    if request.param == "empty_postgres_url":
        settings["MQ_DATABASE_SCHEMA"] = "mq"
        migrate.upgrade(url, schema="mq")
    parsed = make_url(url)
    driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[parsed.get_backend_name()]
    shown = parsed.set(drivername=driver).render_as_string(hide_password=False)
    return Installation(shown, settings)


def an_application(directory: Path, url: str, *, line: str, target: str = ALONE) -> CommandLine:
    """An application with migrations of its own in *directory*."""
    is_postgres = url.startswith("postgresql")
    scripts = directory / "scripts"
    (scripts / "versions").mkdir(parents=True)
    env = ENV.format(url=url, line=line, target=target, include_schemas=is_postgres)
    (scripts / "env.py").write_text(env)
    template = (REPOSITORY / "migrations" / "script.py.mako").read_text()
    (scripts / "script.py.mako").write_text(template)
    (directory / "alembic.ini").write_text(
        textwrap.dedent("""
            [alembic]
            script_location = scripts
        """)
    )
    return CommandLine(directory)


@pytest.mark.parametrize(
    ("hook", "target"),
    [("include_name", ALONE), ("include_object", TOGETHER)],
)
def test_the_migrations_of_an_application_leave_our_tables_alone(
    installation, tmp_path, hook, target
):
    run = an_application(tmp_path, installation.url, line=documented_line(hook), target=target)

    made = run("alembic", "revision", "--autogenerate", "-m", "first")
    assert made.code == 0, made.err
    [script] = (tmp_path / "scripts" / "versions").glob("*.py")
    operations = set(re.findall(r"op\.(\w+)\(['\"](\w+)", script.read_text()))
    assert operations == {("create_table", "uploads"), ("drop_table", "uploads")}

    assert run("alembic", "upgrade", "head").code == 0
    checked = run("alembic", "check")
    assert (checked.code, checked.out) == (0, "No new upgrade operations detected.\n")
    # Its table alembic_version is not ours.
    migrated = run("relay", "migrate", **installation.settings)
    assert (migrated.code, migrated.out.split()[-1]) == (0, migrate.head())


def test_without_the_line_autogenerate_would_drop_our_tables(installation, tmp_path):
    """Otherwise the line has become needless."""
    run = an_application(tmp_path, installation.url, line="")

    checked = run("alembic", "check")

    assert checked.code != 0
    assert "remove_table" in checked.err + checked.out


def test_a_table_of_the_application_with_such_a_name_is_read_in_another_schema():
    read = outbox.include_name
    ours, theirs = {"schema_name": "mq"}, {"schema_name": "clinic"}
    assert not read("audit_log", "table", {"schema_name": None})
    assert not read("audit_log", "table", theirs)
    assert read("uploads", "table", ours)
    assert read("audit_log", "schema", {})
    assert read(None, "schema", {})

    outbox.use_schema("mq")
    try:
        assert not read("audit_log", "table", {"schema_name": None})
        assert not read("audit_log", "table", ours)
        assert read("audit_log", "table", theirs)
    finally:
        outbox.use_schema(None)


def test_a_producer_knows_every_table_of_a_migrated_database():
    """Without the package of consumers, whose tables are among them."""
    names = "print(outbox.TABLE_NAMES == {*outbox.metadata.tables, 'outbox_relay_version'}"
    script = f"import outbox, sys; {names} and 'consumer' not in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"True\n"

    created = set(location.CREATED_BY) - set(location.RENAMED)
    assert created | {location.VERSION_TABLE} == outbox.TABLE_NAMES
    assert set(location.CREATED_BY.values()) <= migrate.known_revisions()

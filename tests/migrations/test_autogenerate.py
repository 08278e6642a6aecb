"""
Alembic of an application that shares its database with the outbox.
"""

import re
import textwrap
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

import consumer.storage.tables
from outbox import autogenerate
from outbox.database import location, migrate
from outbox.tables import metadata
from tests.support.commands import CommandLine
from tests.support.pages import REPOSITORY

assert consumer.storage.tables.parked_messages.metadata is metadata

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


def documented_line() -> str:
    page = (REPOSITORY / "docs" / "how-to" / "record-events.md").read_text()
    found = re.search(r"^ *(include_object=.*,)$", page, re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def application_url(request) -> str:
    """Give the URL of a migrated database, with a synchronous driver."""
    url = make_url(request.getfixturevalue(request.param))
    driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]
    return url.set(drivername=driver).render_as_string(hide_password=False)


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


@pytest.mark.parametrize("target", [ALONE, TOGETHER])
def test_the_migrations_of_an_application_leave_our_tables_alone(
    application_url, tmp_path, target
):
    run = an_application(tmp_path, application_url, line=documented_line(), target=target)

    made = run("alembic", "revision", "--autogenerate", "-m", "first")
    assert made.code == 0, made.err
    [script] = (tmp_path / "scripts" / "versions").glob("*.py")
    operations = set(re.findall(r"op\.(\w+)\(['\"](\w+)", script.read_text()))
    assert operations == {("create_table", "uploads"), ("drop_table", "uploads")}

    assert run("alembic", "upgrade", "head").code == 0
    checked = run("alembic", "check")
    assert (checked.code, checked.out) == (0, "No new upgrade operations detected.\n")


def test_without_the_line_autogenerate_would_drop_our_tables(application_url, tmp_path):
    """Otherwise the line has become needless."""
    run = an_application(tmp_path, application_url, line="")

    checked = run("alembic", "check")

    assert checked.code != 0
    assert "remove_table" in checked.err + checked.out


def test_the_hook_knows_every_table_of_a_migrated_database():
    created = set(location.CREATED_BY) - set(location.RENAMED)

    assert created == set(metadata.tables)
    assert created | {location.VERSION_TABLE} == autogenerate.TABLES
    assert set(location.CREATED_BY.values()) <= migrate.known_revisions()

"""
Migrations after the first release let programs of the version before go on.
"""

import ast

import pytest

from outbox.database import migrate
from tests.support.migration_rules import (
    FIRST_RELEASE,
    contractions,
    released_revisions,
    statements,
    unbounded_locks,
)
from tests.support.processes import REPOSITORY


@pytest.mark.parametrize("revision", released_revisions())
def test_a_migration_waits_for_no_lock_without_a_bound(revision):
    assert unbounded_locks(statements(revision)) == []
    assert unbounded_locks(statements(revision, down=True)) == []


@pytest.mark.parametrize("revision", released_revisions())
def test_a_migration_only_adds_or_says_which_programs_it_refuses(revision):
    if revision != FIRST_RELEASE:
        assert contractions(revision, statements(revision)) == []


def test_every_migration_has_a_way_back():
    files = sorted((REPOSITORY / "migrations" / "versions").glob("[0-9]*_*.py"))
    assert len(files) == len(migrate.known_revisions())
    for file in files:
        [back] = [
            node
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name == "downgrade"
        ]
        assert not all(isinstance(node, ast.Pass | ast.Raise) for node in back.body), file.name


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE outbox DROP COLUMN type;",
        "ALTER TABLE outbox RENAME COLUMN type TO kind;",
        "ALTER TABLE outbox ALTER COLUMN type TYPE varchar(10);",
        "ALTER TABLE outbox ADD COLUMN kind TEXT NOT NULL;",
        "ALTER TABLE outbox ADD CONSTRAINT short CHECK (length(type) < 9);",
        "CREATE UNIQUE INDEX one ON outbox (type);",
        "REVOKE SELECT ON outbox FROM PUBLIC;",
        "DROP FUNCTION outbox_add;",
    ],
)
def test_a_contraction_is_found_unless_it_moves_the_oldest_revision(statement):
    move = "UPDATE outbox_compatibility SET oldest_revision = '{}';"

    assert len(contractions("0013", statement)) == 1
    assert contractions("0013", statement + move.format("0012")) == []
    assert contractions("0013", statement + move.format("0014")) == [
        "moves oldest_revision to 0014"
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE outbox ADD COLUMN kind TEXT;",
        "ALTER TABLE outbox ADD COLUMN kind TEXT DEFAULT '' NOT NULL;",
        "CREATE TABLE kinds (kind TEXT NOT NULL, PRIMARY KEY (kind));",
        "CREATE INDEX outbox_kind ON outbox (kind);",
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS $$ DROP TABLE outbox; SELECT 1 $$;",
        "COMMENT ON TABLE outbox IS 'DROP it';",
    ],
)
def test_an_addition_is_no_contraction(statement):
    assert contractions("0012", statement) == []


def test_a_statement_without_lock_timeout_is_found():
    bounded = "BEGIN; SET LOCAL lock_timeout = '5s'; ALTER TABLE a ADD b int; COMMIT;"

    assert unbounded_locks(bounded) == []
    assert unbounded_locks(f"{bounded} BEGIN; DROP TABLE a; COMMIT;") == ["DROP TABLE a;"]
    late = "BEGIN; ALTER TABLE a ADD b int; SET LOCAL lock_timeout = '5s'; COMMIT;"
    assert len(unbounded_locks(late)) == 1

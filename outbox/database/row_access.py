"""
Checks that the database shows all rows of a table to a process, and carries out its changes.

Row level security without a policy for the role hides rows without an error, a rule may replace
a DELETE by nothing, and a view may take the place of a table.
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database import plaintext_trigger
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.database.privileges import Rights
from outbox.errors import SchemaMismatch

_COMMANDS = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
"""Letters of commands in `pg_policy.polcmd`."""

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
"""Relations that are no tables, by their letter in `pg_class.relkind`."""

# One permissive policy for all rows is enough; each restrictive policy must allow all rows.
# An INSERT is checked by WITH CHECK, which is USING if the policy has none.
_STATEMENT = sa.text("""
SELECT wanted.name, wanted.command, relation.relkind::text AS kind,
    quote_ident(current_user) AS role,
    EXISTS (
        SELECT FROM pg_rewrite AS rule
        WHERE rule.ev_class = relation.oid AND rule.is_instead AND rule.ev_enabled <> 'D'
    ) AS is_replaced,
    row_security_active(relation.oid) AND NOT coalesce(policies.show_all, false) AS is_hidden
FROM unnest(:names, :commands) AS wanted (name, command)
JOIN pg_class AS relation ON relation.oid = to_regclass(wanted.name)
CROSS JOIN LATERAL (
    SELECT bool_or(policy.polpermissive AND coalesce(allows.all_rows, false))
        AND bool_and(policy.polpermissive OR coalesce(allows.all_rows, true)) AS show_all
    FROM pg_policy AS policy
    CROSS JOIN LATERAL (
        SELECT pg_get_expr(policy.polqual, policy.polrelid) = 'true' AS visible,
            coalesce(
                pg_get_expr(policy.polwithcheck, policy.polrelid),
                pg_get_expr(policy.polqual, policy.polrelid)
            ) = 'true' AS accepted
    ) AS expressions
    CROSS JOIN LATERAL (
        SELECT CASE wanted.command
            WHEN 'a' THEN expressions.accepted
            WHEN 'w' THEN expressions.visible AND expressions.accepted
            ELSE expressions.visible
        END AS all_rows
    ) AS allows
    WHERE policy.polrelid = relation.oid
        AND policy.polcmd IN ('*', wanted.command)
        AND EXISTS (
            SELECT FROM unnest(policy.polroles) AS role
            WHERE CASE role WHEN 0 THEN true ELSE pg_has_role(role, 'USAGE') END
        )
) AS policies
""").bindparams(
    sa.bindparam("names", type_=ARRAY(sa.Text)), sa.bindparam("commands", type_=ARRAY(sa.CHAR))
)

_AUDITED = sa.text(
    "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass('audit_log')"
    " AND tgenabled IN ('O', 'A')"
)
_APPEND_ONLY = (
    "audit_log: the trigger that refuses changes of its rows is disabled or missing:"
    " ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only"
)
_CHAIN = (
    "audit_log: the trigger that gives each row its hash is disabled or missing:"
    " ALTER TABLE audit_log ENABLE TRIGGER audit_log_chain"
)

# Bits of tgtype: 1 for each row, 2 before, 4 on INSERT. Of our triggers only the one that refuses
# plaintext runs before it, with an error.
_BEFORE_INSERT = sa.text(
    "SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = to_regclass('outbox')"
    f" AND tgtype & 7 = 7 AND tgenabled <> 'D' AND tgname <> '{plaintext_trigger.NAME}'"
    " ORDER BY tgname"
)


async def problems(connection: AsyncConnection, needed: Rights) -> list[str]:
    """
    Return a line for each table that hides or replaces rows for one of the rights *needed*.

    SQLite has none of these.
    """
    if connection.dialect.name != "postgresql":
        return []
    pairs = ((table.name, right) for table, rights in needed.items() for right in rights)
    wanted = [(name, _COMMANDS[right]) for name, right in pairs]
    names, commands = zip(*wanted, strict=True)
    found = await connection.execute(_STATEMENT, {"names": names, "commands": commands})
    # A table is in the answer once for each right.
    return list(dict.fromkeys(line for row in found for line in _lines(row)))


async def verify(engine: AsyncEngine, needed: Rights) -> None:
    """
    Check that a command sees and changes all rows of the tables in *needed*.

    Otherwise it would report that there are none, or that it has changed some.
    Raises SchemaMismatch with a line for each problem, and DatabaseUnavailable.
    """
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            found = await problems(connection, needed)
    if found:
        raise SchemaMismatch("\n".join(found))


async def warnings(engine: AsyncEngine) -> list[str]:
    """
    Return a line for each trigger that may drop events, or that the audit log lacks.

    Raises DatabaseUnavailable.
    """
    if engine.dialect.name != "postgresql":
        return []
    with driver_errors_translated():
        async with engine.connect() as connection:
            audited = (await connection.scalars(_AUDITED)).all()
            before_insert = (await connection.scalars(_BEFORE_INSERT)).all()
    lines = [
        f"outbox: the trigger {name} runs before each INSERT: an event is lost without an error"
        " if it returns NULL"
        for name in before_insert
    ]
    if "audit_log_append_only" not in audited:
        lines.append(_APPEND_ONLY)
    if "audit_log_chain" not in audited:
        lines.append(_CHAIN)
    return lines


def _lines(row: sa.Row[Any]) -> Iterator[str]:
    if row.kind in _KINDS:
        yield f"{row.name}: is {_KINDS[row.kind]}, and must be the table of `relay migrate`"
        return
    if row.is_replaced:
        yield (
            f"{row.name}: a rule replaces statements on this table: find it in pg_rules, and"
            " DROP RULE"
        )
    if row.is_hidden:
        yield (
            f"{row.name}: row level security hides or refuses rows for the role {row.role}:"
            f" CREATE POLICY outbox_relay ON {row.name} TO {row.role} USING (true)"
            f" WITH CHECK (true), or ALTER TABLE {row.name} DISABLE ROW LEVEL SECURITY"
        )

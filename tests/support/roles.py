"""
Roles of Postgres with the documented rights, and statements of their owner.
"""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.engine import make_url

from tests.support.pages import REPOSITORY

PASSWORD = secrets.token_hex(8)


_GRANT = re.compile(
    r"\('(?P<role>\w+)', '(?P<rights>[a-z, ]+)', '(?P<kind>table|sequence)', '(?P<object>\w+)',"
    r"\s+(?P<columns>null|'.+?')\)",
    re.DOTALL,
)


def documented_rights(role: str) -> set[str]:
    """The rights on tables and sequences that `deploy/postgres/roles.sql` grants to *role*."""
    script = (REPOSITORY / "deploy" / "postgres" / "roles.sql").read_text()
    return {
        f"GRANT {_right(right.strip().upper(), granted['columns'])} ON {_object(granted)}"
        for granted in _GRANT.finditer(script)
        if granted["role"] == role
        for right in granted["rights"].split(",")
    }


def _right(right: str, columns: str) -> str:
    """The *right*, with its columns if there are any; SQL joins literals on several lines."""
    names = re.sub(r"'\s+'", "", columns).strip("'")
    return right if names == "null" else f"{right} ({names})"


def _object(granted: re.Match[str]) -> str:
    return granted["object"] if granted["kind"] == "table" else f"SEQUENCE {granted['object']}"


async def execute(url: str, *statements: str) -> list[asyncpg.Record]:
    """Execute *statements*, each in its own transaction; returns the rows of the last one."""
    connection = await asyncpg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetch(statements[-1])
    finally:
        await connection.close()


@asynccontextmanager
async def role(url: str, *grants: str) -> AsyncIterator[tuple[str, str]]:
    """Lend the name of a new role with *grants*, and the URL with which it logs in."""
    name = f"role_{secrets.token_hex(6)}"
    await execute(url, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    try:
        await execute(url, "SELECT 1", *(f"{grant} TO {name}" for grant in grants))
        changed = make_url(url).set(username=name, password=PASSWORD)
        yield name, changed.render_as_string(hide_password=False)
    finally:
        await execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")

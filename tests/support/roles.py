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


def documented_rights(process: str) -> set[str]:
    """The rights on tables that the documentation grants to *process*, one by one."""
    lines = (REPOSITORY / "docs" / "how-to" / "run.md").read_text().splitlines()
    granted = [
        re.fullmatch(
            r"grant ([a-z, ]+) on ((?:sequence )?\w+)", line.partition(f" to {process};")[0]
        )
        for line in lines
        if f" to {process};" in line
    ]
    return {
        f"GRANT {right.strip().upper()} ON {found[2].replace('sequence', 'SEQUENCE')}"
        for found in granted
        if found
        for right in found[1].split(",")
    }


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

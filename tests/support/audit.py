"""
Rows of the audit log, and an owner who may do everything to them.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit, StatedFilters

UNCHAINED = (
    "INSERT INTO audit_log (id, run, actor, action, source, because, messages)"
    " VALUES ({id}, '11111111111111111111111111111111', 'a', 'drop', 'etl', 'b', 1)"
)
AWKWARD = {
    "text": 'quotes " and \\ and / and \u007f\u2028 and \x01\b\f\n\r\t, ümläut, 日本, 😀',
    "": [],
    "bb": {"z": {}, "a": [1, -1, 2**70, True, False, None]},
    "é": [0.1, -0.0, 1e16, 1e-7, 123456.75, 1e22, 5e-324],
}
"""Values whose texts differ between JSON encoders."""


def an_audit(**changes: Any) -> Audit[StatedFilters]:
    values = {"actor": "anna@host", "because": "a test", "source": "etl"}
    return Audit(**{**values, "selection": StatedFilters({"id": [1]}), **changes})


async def record(engine: AsyncEngine, rows: int = 1, **changes: Any) -> None:
    """Record *rows*, each in a transaction of its own."""
    for number in range(rows):
        async with engine.begin() as connection:
            await an_audit(**changes).record(connection, Action.DROP, number, {"n": number})


async def without_triggers(engine: AsyncEngine) -> None:
    """Do what only an owner can do."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.text("ALTER TABLE audit_log DISABLE TRIGGER ALL"))
            return
        for name in ("no_update", "no_delete", "no_replace"):
            await connection.execute(sa.text(f"DROP TRIGGER audit_log_{name}"))

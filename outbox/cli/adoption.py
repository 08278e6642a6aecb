"""
The options `--adopt` and `--because` of the commands `topology`: another target for a source.
"""

from typing import Annotated

import sqlalchemy as sa
import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit, user_and_host
from outbox.audit_tables import audit_log
from outbox.database import migrate, privileges, row_access, targets
from outbox.database.errors import driver_errors_translated
from outbox.database.verification import Expectation
from outbox.dead_letters.selection import Selection, words
from outbox.tables import outbox_targets

Because = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Why you do this; stored in the table audit_log. Needed with --adopt."
    ),
]
_RIGHTS: dict[sa.Table, tuple[str, ...]] = {
    outbox_targets: ("SELECT", "INSERT", "UPDATE"),
    audit_log: ("INSERT",),
}


def check_reason(*, adopt: bool, because: str | None) -> None:
    """Raise ConfigurationError if *adopt* has no reason in *because* that can be stored."""
    if adopt:
        words("--because", because, needed="--adopt needs a reason, which audit_log keeps")


async def adopt(engine: AsyncEngine, expected: Expectation, *, because: str) -> None:
    """
    Record the target of *expected* as that of its source, and the change in the audit log.

    Raises SchemaMismatch and DatabaseUnavailable.
    """
    await migrate.verify(engine)
    await privileges.verify(engine, _RIGHTS)
    await row_access.verify(engine, _RIGHTS)
    audit = Audit(
        actor=user_and_host(), because=because, source=expected.source, selection=Selection()
    )
    with driver_errors_translated(refusals=False):
        async with engine.begin() as connection:
            await targets.adopt(connection, expected.source, expected.target)
            await audit.record(connection, Action.ADOPT, 0)

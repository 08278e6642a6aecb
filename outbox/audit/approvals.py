"""
The second person: a request, its approval by another person, and one use of it.

    request    the command records it, shows its number, and ends
    approve    within a day, by another role of Postgres, or another OS user on SQLite
    use        within an hour, once, by the one who asked, for the same act and selection

Each is a row of the audit log. On Postgres the trigger `approvals_two_persons` takes both roles
from the session, so no name that a person states counts. On SQLite the process states its user id,
so the guard rests on who may write to the file.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.audit.chain import canonical_json
from outbox.audit.log import Action, Audit, Filters, StatedFilters, own_user
from outbox.audit_tables import approvals, audit_log
from outbox.database.errors import driver_errors_translated
from outbox.database.privileges import Rights
from outbox.database_time import database_now
from outbox.errors import ApprovalNeeded, ConfigurationError
from outbox.runtime.shield import commit

APPROVABLE = timedelta(days=1)
"""How long a request can be approved."""
USABLE = timedelta(hours=1)
"""How long an approval can be used."""
RIGHTS: Rights = {approvals: ("SELECT", "INSERT", "UPDATE"), audit_log: ("INSERT",)}

_F = TypeVar("_F", bound=Filters)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command is about to do: an approval holds for nothing else."""

    action: str
    source: str
    selection: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A row of `approvals`, without the reason."""

    asked: Asked
    requested_role: str
    requested_at: datetime
    approved_at: datetime | None = None
    used_at: datetime | None = None

    def refuses_approval(self, role: str, now: datetime) -> str | None:
        """Return why the person with this *role* cannot approve it at *now*, or None."""
        if self.approved_at is not None:
            return "is approved already"
        if role == self.requested_role:
            return f"was requested by {role} as well: another person has to approve it"
        if now - self.requested_at > APPROVABLE:
            return "was requested more than a day ago: run the command again"
        return None

    def refuses_use(self, role: str, asked: Asked, now: datetime) -> str | None:
        """Return why the person with this *role* cannot do what is *asked* at *now*, or None."""
        if asked != self.asked:
            return "is for another act, source or selection"
        if role != self.requested_role:
            return f"belongs to {self.requested_role}, who requested it"
        if self.approved_at is None:
            return "is not approved yet"
        if self.used_at is not None:
            return "was used: run the command without it for a new one"
        if now - self.approved_at > USABLE:
            return "was approved more than an hour ago: run the command without it for a new one"
        return None


async def required(
    engine: AsyncEngine, audit: Audit[_F], action: Action, *, approval: int | None
) -> Audit[_F]:
    """
    Use up the *approval* of *action* by a second person; return the audit that names it.

    Without an approval it records a request, and raises ApprovalNeeded with its number. Call it
    before the act, in no transaction. The selection of *audit* must say all that it selects: a
    selection by key does not.
    Raises ConfigurationError if the approval does not hold for this, and DatabaseUnavailable.
    """
    selection = audit.selection.to_json()
    if selection.get("key"):
        raise ConfigurationError(
            "--key: MQ_TWO_PERSON needs a selection that the request can name: use --id"
        )
    asked = Asked(action.value, audit.source, json.loads(canonical_json(selection)))
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            if approval is None:
                number = await _request(connection, audit, asked)
                await commit(connection)
                raise ApprovalNeeded(number)
            role = await _role(connection)
            found, now = await _locked(connection, approval, "--approval")
            if problem := found.refuses_use(role, asked, now):
                raise ConfigurationError(f"--approval: {approval} {problem}")
            await _change(connection, approval, used_at=database_now())
            used = replace(audit, approval=approval)
            await used.record(connection, Action.USE_APPROVAL, 0, {"action": action.value})
            await commit(connection)
            return used


async def approve(engine: AsyncEngine, number: int, *, actor: str, because: str) -> Asked:
    """
    Approve the request with this *number*, and return what it allows.

    Raises ConfigurationError if the same person has requested it, and DatabaseUnavailable.
    """
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            role = await _role(connection)
            found, now = await _locked(connection, number, "N")
            if problem := found.refuses_approval(role, now):
                raise ConfigurationError(f"N: {number} {problem}")
            await _change(
                connection,
                number,
                approved_by=actor,
                approved_role=role,
                approved_at=database_now(),
            )
            audit = Audit(
                actor=actor,
                because=because,
                source=found.asked.source,
                selection=StatedFilters(found.asked.selection),
                approval=number,
            )
            details = {"action": found.asked.action, "requested_role": found.requested_role}
            await audit.record(connection, Action.APPROVE, 0, details)
            await commit(connection)
            return found.asked


async def _request(connection: AsyncConnection, audit: Audit[Filters], asked: Asked) -> int:
    statement = (
        sa.insert(approvals)
        .values(
            action=asked.action,
            source=asked.source,
            selection=asked.selection,
            because=audit.because,
            requested_by=audit.actor,
            requested_role=await _role(connection),
        )
        .returning(approvals.c.id)
    )
    number = int((await connection.execute(statement)).scalar_one())
    requested = replace(audit, approval=number)
    await requested.record(connection, Action.REQUEST, 0, {"action": asked.action})
    return number


async def _role(connection: AsyncConnection) -> str:
    """Return the person as the database, or the operating system, knows it."""
    if connection.dialect.name != "postgresql":
        return own_user()
    return str(await connection.scalar(sa.text("SELECT session_user::text")))


async def _locked(
    connection: AsyncConnection, number: int, option: str
) -> tuple[Request, datetime]:
    """Return a request, locked until the transaction ends, and the time of the database."""
    statement = sa.select(approvals).where(approvals.c.id == number).with_for_update()
    row = (await connection.execute(statement)).mappings().first()
    if row is None:
        raise ConfigurationError(f"{option}: there is no request {number}")
    found = Request(
        asked=Asked(row["action"], row["source"], row["selection"]),
        **{name: row[name] for name in _OF_REQUEST},
    )
    return found, (await connection.execute(sa.select(database_now()))).scalar_one()


_OF_REQUEST = ("requested_role", "requested_at", "approved_at", "used_at")


async def _change(connection: AsyncConnection, number: int, **values: object) -> None:
    await connection.execute(sa.update(approvals).where(approvals.c.id == number).values(**values))

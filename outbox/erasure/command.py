"""
One call of `relay erase` or `relay readmit`, without its command line.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit import approvals
from outbox.audit.log import Action, Audit, Filters, StatedFilters
from outbox.database import privileges
from outbox.encryption.digests import digest
from outbox.erasure import erasure, readmission, restored
from outbox.erasure.batches import Report
from outbox.erasure.opened import Opened
from outbox.erasure.opening import opened, opened_alone
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings

Database: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncEngine]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    A call of a command.

    Args:
        subjects: The persons; None for the keys that the audit log names.
        audit: The actor and the reason; None changes nothing.
        wait: How long to wait for batches of consumers.
        approval: The request that a second person has approved, for MQ_TWO_PERSON.
        report: Called while batches have not ended.

    """

    subjects: Sequence[str] | None
    audit: Audit[Filters] | None
    wait: timedelta
    report: Report
    approval: int | None = None


async def erase(
    settings: SharedSettings, database: Database, request: Request
) -> erasure.Erasure | dict[str, int]:
    """
    Erase the subjects of *request*, or count them, and return what was done.

    Raises ConfigurationError, KeysUnavailable, DatabaseUnavailable, BatchesNotEnded, and
    ApprovalNeeded if a second person has to approve it.
    """
    opening = opened if request.audit is None else opened_alone
    async with opening(settings, database, wait=request.wait) as both:
        names, audit = request.subjects, request.audit
        if audit is None:
            if names is None:
                return {"erased_again": len(await restored.returned(both))}
            return await erasure.plan(both, names)
        if names is None:
            # A second person has approved the erasure that is repeated.
            again = await restored.erase_again(both, audit, report=request.report)
            return {"erased_again": again}
        approved = await _approved(both, settings, request, audit, Action.ERASE)
        return await erasure.erase(both, names, approved, report=request.report)


async def readmit(
    settings: SharedSettings, database: Database, request: Request
) -> readmission.Readmission:
    """Readmit the subjects of *request*, which needs an audit; raises as `erase`."""
    if request.subjects is None or request.audit is None:
        raise ValueError
    async with opened_alone(settings, database, wait=request.wait) as both:
        approved = await _approved(both, settings, request, request.audit, Action.READMIT)
        return await readmission.readmit(both, request.subjects, approved)


async def _approved(
    both: Opened,
    settings: SharedSettings,
    request: Request,
    audit: Audit[Filters],
    action: Action,
) -> Audit[Filters]:
    """
    Return the audit of *action*, which names its approval if MQ_TWO_PERSON asks for one.

    An erasure that has begun needs none to be finished. Raises ApprovalNeeded, and
    ConfigurationError if the approval does not hold for these subjects or is not needed.
    """
    if not settings.two_person:
        if request.approval is not None:
            raise ConfigurationError("--approval: is needed only while MQ_TWO_PERSON is set")
        return audit
    names = request.subjects or ()
    if action is Action.ERASE and not await erasure.begins(both, names):
        return audit
    await privileges.verify(both.outbox, approvals.RIGHTS)
    # The approval holds for these persons, and the request names none of them.
    chosen = digest(both.keys.digest_key(), "fingerprint", "\n".join(sorted(names))).hex()
    stated = replace(audit, selection=StatedFilters({"subjects": len(names), "digest": chosen}))
    return await approvals.required(both.outbox, stated, action, approval=request.approval)

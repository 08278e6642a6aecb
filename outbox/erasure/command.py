"""
One call of `relay erase` or `relay readmit`, without its command line.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeAlias

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
    _check(settings, request)
    opening = opened if request.audit is None else opened_alone
    async with opening(settings, database, wait=request.wait) as both:
        names, audit = request.subjects, request.audit
        if names is None:
            found = await restored.returned(both)
            if audit is None:
                return {"erased_again": len(found.destroyed)}
            # An operator may add rows to the audit log, which name any key.
            ids = found.destroyed | found.readmitted
            chosen = _Chosen(Action.ERASE, {"again": True, "keys": len(ids)}, map(str, ids))
            if found.begins:
                audit = await _approved(both, settings, request, audit, chosen)
            again = await restored.erase_again(both, found, audit, report=request.report)
            return {"erased_again": again}
        if audit is None:
            return await erasure.plan(both, names)
        # What has begun is finished without an approval.
        if await erasure.begins(both, names):
            chosen = _Chosen(Action.ERASE, {"subjects": len(names)}, names)
            audit = await _approved(both, settings, request, audit, chosen)
        return await erasure.erase(both, names, audit, report=request.report)


async def readmit(
    settings: SharedSettings, database: Database, request: Request
) -> readmission.Readmission:
    """Readmit the subjects of *request*, which needs an audit; raises as `erase`."""
    if request.subjects is None or request.audit is None:
        raise ValueError
    _check(settings, request)
    async with opened_alone(settings, database, wait=request.wait) as both:
        names = request.subjects
        chosen = _Chosen(Action.READMIT, {"subjects": len(names)}, names)
        approved = await _approved(both, settings, request, request.audit, chosen)
        return await readmission.readmit(both, names, approved)


def _check(settings: SharedSettings, request: Request) -> None:
    """Raise ConfigurationError for an approval that no act needs."""
    if request.approval is not None and not settings.two_person:
        raise ConfigurationError("--approval: is needed only while MQ_TWO_PERSON is set")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """An *action*, what a person may know of its selection, and all that it names."""

    action: Action
    selection: Mapping[str, Any]
    names: Iterable[str]


async def _approved(
    both: Opened,
    settings: SharedSettings,
    request: Request,
    audit: Audit[Filters],
    chosen: _Chosen,
) -> Audit[Filters]:
    """
    Return the *audit*, which names its approval if MQ_TWO_PERSON asks for one.

    Raises ApprovalNeeded, and ConfigurationError if the approval does not hold for what is
    *chosen*.
    """
    if not settings.two_person:
        return audit
    await privileges.verify(both.outbox, approvals.RIGHTS)
    # The approval holds for these names, and the request has none of them.
    text = "\n".join(sorted(chosen.names))
    found = digest(both.keys.digest_key(), "fingerprint", text).hex()
    stated = replace(audit, selection=StatedFilters({**chosen.selection, "digest": found}))
    return await approvals.required(both.outbox, stated, chosen.action, approval=request.approval)

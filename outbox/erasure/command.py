"""
One call of `relay erase` or `relay readmit`, without its command line.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.dead_letters.audit import Audit
from outbox.erasure import erasure, readmission, restored
from outbox.erasure.batches import Report
from outbox.erasure.opening import opened, opened_alone
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
        report: Called while batches have not ended.

    """

    subjects: Sequence[str] | None
    audit: Audit | None
    wait: timedelta
    report: Report


async def erase(
    settings: SharedSettings, database: Database, request: Request
) -> erasure.Erasure | dict[str, int]:
    """
    Erase the subjects of *request*, or count them, and return what was done.

    Raises ConfigurationError, KeysUnavailable, DatabaseUnavailable and BatchesNotEnded.
    """
    opening = opened if request.audit is None else opened_alone
    async with opening(settings, database, wait=request.wait) as both:
        names, audit = request.subjects, request.audit
        if audit is None:
            if names is None:
                return {"erased_again": len(await restored.returned(both))}
            return await erasure.plan(both, names)
        if names is None:
            again = await restored.erase_again(both, audit, report=request.report)
            return {"erased_again": again}
        return await erasure.erase(both, names, audit, report=request.report)


async def readmit(
    settings: SharedSettings, database: Database, request: Request
) -> readmission.Readmission:
    """Readmit the subjects of *request*, which needs an audit; raises as `erase`."""
    if request.subjects is None or request.audit is None:
        raise ValueError
    async with opened_alone(settings, database, wait=request.wait) as both:
        return await readmission.readmit(both, request.subjects, request.audit)

"""
The session that a handler gets: it refuses to end the transaction, which is the consumer's.

The messages of a transaction are recorded as completed before the first handler is called. A
handler that committed would commit these records too, and the messages after its own would count
as completed without a call.
"""

import re
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import TransactionEndedByHandler

_ENDS_TRANSACTION = re.compile(
    r"\s*(COMMIT|END|ABORT|ROLLBACK(?!(\s+(WORK|TRANSACTION))?\s+TO\b)|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE,
)
REFUSAL = "the library ends the transaction of a handler: do not commit, roll back or close"


class GuardedSession(Session):
    """A session that its unit of work commits by `Session.commit`, and nothing else does."""

    def commit(self) -> NoReturn:
        raise TransactionEndedByHandler(REFUSAL)


class HandlerSession(AsyncSession):
    """The session of a handler."""

    sync_session_class = GuardedSession


def refuse_statements(engine: AsyncEngine) -> None:
    """Refuse all statements of connections of *engine* that would end a transaction."""
    sa.event.listen(engine.sync_engine, "before_cursor_execute", _refuse)


def _refuse(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    if _ENDS_TRANSACTION.match(statement):
        raise TransactionEndedByHandler(REFUSAL)

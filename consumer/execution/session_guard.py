"""
The session of a handler, which ends no transaction and loses no change of another message.

Messages that share a transaction would lose their effects, though they are recorded as completed.

- Only the unit of work commits. A statement that would end the transaction raises
  TransactionEndedByHandler; `unit_of_work` does so for commits below the session.
- Changes of objects wait in the session for the next flush. A call for one message that takes
  those of another one back makes their transaction fail; then each is attempted alone.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import TransactionEndedByHandler

REFUSAL = "the library ends the transaction of a handler: do not commit, roll back or close"

_ENDS_TRANSACTION = re.compile(
    r"\s*(COMMIT|END|ABORT|ROLLBACK(?!(\s+(WORK|TRANSACTION))?\s+TO\b)|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE,
)
_BLANK = re.compile(r"(\s|;|--[^\n]*(\n|$))*")
_COMMENT_MARK = re.compile(r"/\*|\*/")


class LostChangesError(Exception):
    """A handler took back changes that another message has made in their common session."""


class GuardedSession(Session):
    """A session that its unit of work alone commits, and that notices lost changes."""

    _unwritten: Mapping[int, object] = MappingProxyType({})
    _has_lost = False

    def commit(self) -> NoReturn:
        raise TransactionEndedByHandler(REFUSAL)

    def keep_changes(self) -> None:
        """
        Remember the changes so far, so that later calls cannot take them back unnoticed.

        Raises LostChangesError if one has, before a flush wrote them.
        """
        self._find_lost()
        if self._has_lost:
            raise LostChangesError
        self._unwritten = self._changed()

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        self._find_lost()
        super().flush(objects)
        self._unwritten = {}

    def expire(self, instance: object, attribute_names: Any = None) -> None:
        super().expire(instance, attribute_names)
        self._find_lost()

    def expire_all(self) -> None:
        super().expire_all()
        self._find_lost()

    def _find_lost(self) -> None:
        if self._unwritten and self._unwritten.keys() - self._changed().keys():
            self._has_lost = True

    def _changed(self) -> dict[int, object]:
        """The objects that the next flush writes, by identity."""
        return {id(each): each for each in chain(self.new, self.dirty, self.deleted)}


class HandlerSession(AsyncSession):
    """The session of a handler."""

    sync_session_class = GuardedSession
    sync_session: GuardedSession


def refuse_statements(engine: AsyncEngine) -> None:
    """Refuse all statements of connections of *engine* that end a transaction."""
    sa.event.listen(engine.sync_engine, "before_cursor_execute", _refuse_statement)


def _refuse_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    if ends_transaction(statement):
        raise TransactionEndedByHandler(REFUSAL)


def ends_transaction(statement: str) -> bool:
    """Whether *statement* would end a transaction, on Postgres or on SQLite."""
    if _ENDS_TRANSACTION.match(statement):
        return True
    # Only Postgres has comments in comments. Most statements have none before their first word.
    return any(
        _ENDS_TRANSACTION.match(statement, _first_word(statement, nested=nested)) is not None
        for nested in ((True, False) if statement.lstrip()[:1] in {"/", "-", ";"} else ())
    )


def _first_word(statement: str, *, nested: bool) -> int:
    """The position after the spaces, semicolons and comments at the beginning of *statement*."""
    position = depth = 0
    while True:
        if not depth:
            blank = _BLANK.match(statement, position)
            position = blank.end() if blank else position
            if not statement.startswith("/*", position):
                return position
        mark = _COMMENT_MARK.search(statement, position)
        if mark is None:
            return len(statement)
        if mark[0] == "*/":
            depth -= 1
        elif nested or not depth:
            depth += 1
        position = mark.end()

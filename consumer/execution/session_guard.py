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
from typing import Any, NamedTuple, NoReturn

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


class _Added(NamedTuple):
    """A new object, and the number of the call that added it."""

    call: int
    # Held: SQLAlchemy 2.1.9 does not report each object that it loses; see
    # findings/sqlalchemy-expunged-new-objects.sh.
    instance: object


class GuardedSession(Session):
    """
    A session that its unit of work alone commits, and that notices lost changes.

    New objects are counted as they come and go: to look at all of them after each call would take
    a fifth of a consumer's time, measured with a hundred calls in a transaction.
    """

    _has_lost = False
    _call = 0
    # Both by identity. A session gets dictionaries of its own with its first new object.
    _added: dict[int, _Added] = {}  # noqa: RUF012
    """The objects that the next flush inserts."""
    _gone: dict[int, _Added] = {}  # noqa: RUF012
    """Those that an earlier call has added, and a later one has taken out of the session."""
    _changed_before: Mapping[int, object] = MappingProxyType({})

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
        self._call += 1
        self._changed_before = self._changed()

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        self._find_lost()
        super().flush(objects)
        # A flush of some objects leaves others, and a hook adds some for the next one.
        left = self._changed() if self._changed_before else {}
        self._changed_before = {k: v for k, v in self._changed_before.items() if k in left}
        if self._added:
            new = self.new
            self._added = {k: v for k, v in self._added.items() if v.instance in new}

    def expire(self, instance: object, attribute_names: Any = None) -> None:
        super().expire(instance, attribute_names)
        self._find_lost()

    def expire_all(self) -> None:
        super().expire_all()
        self._find_lost()

    def _find_lost(self) -> None:
        changed_before = self._changed_before
        if self._gone or (changed_before and changed_before.keys() - self._changed().keys()):
            self._has_lost = True

    def _changed(self) -> dict[int, object]:
        """The objects that the next flush updates or deletes, by identity."""
        return {id(each): each for each in chain(self.dirty, self.deleted)}

    def became_pending(self, instance: object) -> None:
        """The next flush inserts *instance*, which a call has added, or has added again."""
        if not (self._added or self._gone):
            self._added, self._gone = {}, {}
        before = self._gone.pop(id(instance), None)
        self._added[id(instance)] = before or _Added(self._call, instance)

    def became_transient(self, instance: object) -> None:
        """The next flush does not insert *instance* after all."""
        added = self._added.pop(id(instance), None)
        if added is not None and added.call < self._call:
            self._gone[id(instance)] = added


sa.event.listen(GuardedSession, "transient_to_pending", GuardedSession.became_pending)
sa.event.listen(GuardedSession, "pending_to_transient", GuardedSession.became_transient)


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

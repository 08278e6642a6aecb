"""
Replay of the relay's dead letters: back into the outbox, as the original events.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database import plaintext_trigger
from outbox.dead_letters.encrypted_letters import letter_keys
from outbox.dead_letters.replay import Destination
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import UnreadableMessage
from outbox.runtime import process
from outbox.tables import outbox
from outbox.wire import row_codec
from outbox.wire.encrypted import require_encrypted
from outbox.wire.envelope import Envelope
from relay import assembly
from relay.settings import RelaySettings
from relay.storage.settlement import ENVELOPE_COLUMNS, SOURCE

ALREADY_IN_OUTBOX = "already in the outbox"


class ToOutbox:
    """
    Inserts dead letters as new outbox rows, in the transaction that deletes the letters.

    With *require_encryption* those with a plain body stay.
    """

    def __init__(self, *, require_encryption: bool = False) -> None:
        self._require_encryption = require_encryption

    async def ready(self) -> None:
        """Return at once: only the database is needed."""

    async def send(
        self, connection: AsyncConnection, letters: Sequence[Any], *, run: UUID
    ) -> list[str | None]:
        """The reason why each of *letters* cannot be an outbox row, or None."""
        del run  # no replay for a consumer: the relay has never published these events
        events: dict[UUID, dict[str, Any]] = {}
        problems: list[str | None] = []
        refuses_plaintext = await plaintext_trigger.exists(connection)
        for letter in letters:
            try:
                event = _event(letter)
                if self._require_encryption or refuses_plaintext:
                    require_encrypted(event["content_encoding"])
            except UnreadableMessage as error:
                problems.append(error.code)
                continue
            problems.append(ALREADY_IN_OUTBOX if event["event_id"] in events else None)
            events.setdefault(event["event_id"], event)
        waiting = set(events) - await _inserted(connection, list(events.values()))
        return [
            ALREADY_IN_OUTBOX
            if problem is None and UUID(letter["message_id"]) in waiting
            else problem
            for letter, problem in zip(letters, problems, strict=True)
        ]


def _event(letter: Any) -> dict[str, Any]:
    """Raises UnreadableMessage if the relay would only dead-letter the event again."""
    try:
        identity = UUID(letter["message_id"] or "")
    except (ValueError, TypeError):  # SQLite stores blobs in columns of text too
        raise UnreadableMessage("malformed", "message_id") from None
    event = {"event_id": identity, **{name: letter[name] for name in ENVELOPE_COLUMNS}}
    if isinstance(event["headers"], str):  # in a row this would be the text of an object
        raise UnreadableMessage("malformed", "headers")
    row_codec.from_row(event)
    return event


def _envelope_of(letter: Any) -> Envelope:
    """The envelope of *letter*, whose body was read; raises UnreadableMessage."""
    return row_codec.from_row(_event(letter))


async def _inserted(connection: AsyncConnection, events: list[dict[str, Any]]) -> set[UUID]:
    if not events:
        return set()
    # ON CONFLICT is not in SQLAlchemy's common API, although both databases have the same syntax.
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = (
        insert(outbox)
        .values(events)
        .on_conflict_do_nothing(index_elements=[outbox.c.event_id])
        .returning(outbox.c.event_id)
    )
    return set((await connection.execute(statement)).scalars())


def dead_letter_source(settings: RelaySettings) -> DeadLetterSource:
    """The source that the commands on the relay's dead letters work on."""
    process.allow_configured_headers(settings)

    @asynccontextmanager
    async def to_outbox() -> AsyncIterator[Destination]:
        yield ToOutbox(require_encryption=settings.require_encryption)

    return DeadLetterSource(
        name=SOURCE,
        database=lambda: assembly.database(settings),
        destination=to_outbox,
        envelope_of=_envelope_of,
        keys=lambda: letter_keys(settings, name=process.name(assembly.ROLE)),
        replay_rights={outbox: ("SELECT", "INSERT")},
        two_person=settings.two_person,
    )

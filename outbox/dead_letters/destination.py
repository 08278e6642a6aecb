"""
Where a replay sends dead letters.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

EXPIRED = "body_expired"
"""The code of a dead letter whose body was deleted; a replay with a new body may send it."""

Letter: TypeAlias = Any
"""A row of `dead_letters`, as a mapping."""


class Destination(Protocol):
    """The target of a replay."""

    async def ready(self) -> None:
        """Raise BrokerUnavailable if the destination is unreachable."""

    async def send(
        self, connection: AsyncConnection, letters: Sequence[Letter], *, run: UUID
    ) -> list[str | None]:
        """Send *letters*; return a code for each that did not arrive, and None for the others."""


class Duplicates(Protocol):
    """Finds dead letters whose messages were completed before, so consumers would drop them."""

    async def among(
        self, connection: AsyncConnection, letters: Sequence[Letter], *, hold: bool
    ) -> list[int]:
        """
        Return the ids of such dead letters.

        With *hold*, a consumer that gets a copy waits for this transaction before it reads the
        record of the message.
        """

    async def forget(self, connection: AsyncConnection, letters: Sequence[Letter]) -> int:
        """Delete the records that *letters* are completed, and return their number."""


async def sent(
    destination: Destination, connection: AsyncConnection, letters: Sequence[Letter], *, run: UUID
) -> list[str | None]:
    """Send those of *letters* that have a body, and return a code for each as `send` does."""
    whole = [letter for letter in letters if letter["body_expired_at"] is None]
    codes = iter(await destination.send(connection, whole, run=run) if whole else ())
    return [next(codes) if each["body_expired_at"] is None else EXPIRED for each in letters]

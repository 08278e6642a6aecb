"""
A claimed row of the outbox.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


# Not frozen for the reason that Envelope is not.
@dataclass(slots=True)
class Row:
    """A claimed row of the outbox: its *values* as read, and the columns that the relay uses."""

    id: int
    ordering_key: str | None
    attempts: int
    created_at: datetime
    values: Mapping[str, Any] = field(repr=False, compare=False)

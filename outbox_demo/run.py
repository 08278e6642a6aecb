"""
The names of a run of the demo, which keep it apart from other runs and from all other data.
"""

import json
import os
import secrets
from dataclasses import dataclass
from typing import Self

_RUN = "OUTBOX_DEMO_RUN"
_TYPES = "OUTBOX_DEMO_TYPES"


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run.

    Args:
        id: Part of every name.
        types: Event types, other than uploads, that the consumer handles.

    """

    id: str
    types: tuple[str, ...] = ()

    @classmethod
    def new(cls, types: tuple[str, ...]) -> Self:
        """A run with a new random id."""
        return cls(secrets.token_hex(4), types)

    @classmethod
    def from_environment(cls) -> Self:
        """The run that this process belongs to."""
        return cls(os.environ.get(_RUN, "manual"), tuple(json.loads(os.environ.get(_TYPES, "[]"))))

    def environment(self) -> dict[str, str]:
        """Environment variables from which a child process reads its run."""
        return {_RUN: self.id, _TYPES: json.dumps(self.types)}

    @property
    def prefix(self) -> str:
        """The first part of the routing keys of all its events."""
        return f"demo.{self.id}."

    @property
    def consumer(self) -> str:
        """The name of its consumer, which is part of its queue names and of its dedup rows."""
        return f"etl-demo-{self.id}"

"""
Who a run of the demo is: the names that keep it apart from other runs, and from everything else.
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
        types: Event types besides uploads that the consumer must know.

    """

    id: str
    types: tuple[str, ...] = ()

    @classmethod
    def new(cls, types: tuple[str, ...]) -> Self:
        """A run that nobody has heard of."""
        return cls(secrets.token_hex(4), types)

    @classmethod
    def from_environment(cls) -> Self:
        """The run that this process was started for."""
        return cls(os.environ.get(_RUN, "manual"), tuple(json.loads(os.environ.get(_TYPES, "[]"))))

    def environment(self) -> dict[str, str]:
        """What tells a child process which run it belongs to."""
        return {_RUN: self.id, _TYPES: json.dumps(self.types)}

    @property
    def prefix(self) -> str:
        """What the routing keys of all its events begin with."""
        return f"demo.{self.id}."

    @property
    def consumer(self) -> str:
        """The name of its consumer, and so of its queues and of its part of the dedup store."""
        return f"etl-demo-{self.id}"

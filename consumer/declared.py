"""
A function that a consumer calls, and the resources that are its further arguments.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from consumer.lifespan import Provided

Function: TypeAlias = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Declared:
    """*function*, and its further arguments by their names."""

    function: Function
    resources: Mapping[str, Provided] = field(default_factory=dict)

    def bound(self, value: object) -> Function:
        """The function with its resources, which are in the *value* of the lifespan."""
        if not self.resources:
            return self.function
        found = {name: each.of(value) for name, each in self.resources.items()}
        return partial(self.function, **found)

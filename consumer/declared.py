"""
A function that a consumer calls, and the resources that are its further arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from consumer.lifespan import Provided
from consumer.middleware import Function


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

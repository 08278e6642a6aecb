"""
Types of settings: lists, and names of exchanges and queues.
"""

import json
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

_ENTITY_NAME = r"^[A-Za-z0-9_.:-]+$"


def items(value: Any) -> Any:
    """Return the items of a list that is written as JSON or separated by commas."""
    if not isinstance(value, str):
        return value
    if not value.strip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON list, or items separated by commas") from None


Item = TypeVar("Item")
Items = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(items)]


EntityName = Annotated[str, Field(min_length=1, max_length=200, pattern=_ENTITY_NAME)]

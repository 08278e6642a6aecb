"""
The rows that a scan claims, read from the result of its statement.
"""

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.row import Row


@dataclass(frozen=True, slots=True)
class ClaimedRows:
    """
    The result of a scan, or of a whole claim.

    Args:
        rows: The claimed rows, in order of insertion.
        more: Whether another claim may find rows right now.
        released: Whether the statement locked rows that were not claimed. They are ready again
            when the transaction ends.

    """

    rows: list[Row]
    more: bool = False
    released: bool = False


async def read(
    connection: AsyncConnection, statement: sa.Select[Any], parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """The result of *statement*, one dictionary for each row."""
    result = await connection.execute(statement, parameters)
    columns = tuple(result.keys())
    return [dict(zip(columns, values, strict=True)) for values in result]


def to_row(values: dict[str, Any]) -> Row:
    """The *values* of a database row as a claimed row."""
    values["headers"] = _headers(values["headers"])
    return Row(
        id=values["id"],
        ordering_key=values["ordering_key"],
        attempts=values["attempts"],
        created_at=values["created_at"],
        values=values,
    )


def _headers(text: str) -> Any:
    """
    *text* decoded from JSON if it is an object of strings and integers; else *text* itself.

    Text that stays text is no valid headers, and the codec refuses it. Its numbers may be too
    long to decode, and its lists nested too deep to encode again.
    """
    if text == "{}":
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, dict) or not all(map(_is_plain, value.values())):
        return text
    return value


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int)

"""
JSON in a column of a database.
"""

import json
from typing import Any


def json_value(text: str) -> Any:
    """Return *text* decoded from JSON, or as it is if it cannot be decoded."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

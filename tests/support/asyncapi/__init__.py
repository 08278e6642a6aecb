"""
The judge of AsyncAPI documents: the official schema.
"""

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator


@lru_cache
def _official() -> Draft7Validator:
    text = gzip.decompress((Path(__file__).parent / "schema-3.0.0.json.gz").read_bytes())
    return Draft7Validator(json.loads(text))


def violations(document: Any) -> list[str]:
    """Where *document* is no valid AsyncAPI document."""
    return [f"{each.json_path}: {each.message}" for each in _official().iter_errors(document)]

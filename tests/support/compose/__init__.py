"""
The judge of Compose files: the schema of the Compose Specification.
"""

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator


@lru_cache
def _official() -> Draft202012Validator:
    text = gzip.decompress((Path(__file__).parent / "compose-spec.json.gz").read_bytes())
    return Draft202012Validator(json.loads(text))


def violations(document: Any) -> list[str]:
    """Where *document* is no Compose file."""
    return [f"{each.json_path}: {each.message}" for each in _official().iter_errors(document)]

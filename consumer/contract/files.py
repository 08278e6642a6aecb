"""
AsyncAPI documents in files.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from outbox.errors import ConfigurationError


def text_of(document: dict[str, Any]) -> str:
    """*document* as JSON, which is YAML too, for people and for `diff`."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def save(document: dict[str, Any], file: str) -> None:
    """
    Write *document* to *file*, all of it or nothing.

    Raises ConfigurationError if the file cannot be written.
    """
    try:
        path = Path(file)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, delete=False
        ) as new:
            new.write(text_of(document))
        Path(new.name).chmod(mode)
        Path(new.name).replace(path)
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise ConfigurationError(f"--output: {file} cannot be written ({kind})") from None


def load(file: str) -> Any:
    """
    The JSON value in *file*.

    Raises ConfigurationError if the file cannot be read, or has no JSON.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        kind = type(error).__name__
        raise ConfigurationError(f"--contract: {file} cannot be read ({kind})") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"--contract: {file} is no JSON") from None

"""
The names of persons in a file: one on a line. Never on a command line, which other users can see.
"""

import sys
from pathlib import Path

from outbox.errors import ConfigurationError, InvalidEvent
from outbox.validation import check_key

MAX_BYTES = 4_000_000
MAX_SUBJECTS = 10_000
OPTION = "--subject-file"


def read(path: Path) -> list[str]:
    """
    Return the names in the file at *path*, or in the standard input for `-`; each once.

    Raises ConfigurationError, which names the line and never its text.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{OPTION}: cannot be read ({type(error).__name__})") from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{OPTION}: is larger than {MAX_BYTES} bytes")
    return parse(data)


def parse(data: bytes) -> list[str]:
    """Return the names in *data*; raises as `read`."""
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{OPTION}: is not UTF-8") from None
    names: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        name = line.removesuffix("\r")
        if not name:
            continue
        try:
            check_key("subject", name)
        except InvalidEvent:
            raise ConfigurationError(f"{OPTION}: line {number} cannot be a subject") from None
        names[name] = None
    if not names:
        raise ConfigurationError(f"{OPTION}: has no line")
    if len(names) > MAX_SUBJECTS:
        raise ConfigurationError(f"{OPTION}: has more than {MAX_SUBJECTS} subjects")
    return list(names)

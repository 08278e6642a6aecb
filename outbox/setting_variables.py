"""
The variables with the prefix MQ_ in the environment and in `.env`.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream

PREFIX = "MQ_"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable whose name begins with MQ_, in any letter case; *file* is where it stands."""

    name: str
    value: str | None
    file: str = ""

    @property
    def setting(self) -> str:
        """The name in capitals, in which settings are documented."""
        return self.name.upper()

    @property
    def shown(self) -> str:
        """The name for an error message, with the file that contains it."""
        name = self.name if self.name.isprintable() else ascii(self.name)
        return f"{name} in {self.file}" if self.file else name


def of_environment() -> list[Variable]:
    """The variables of the environment."""
    return [
        Variable(name, value)
        for name, value in sorted(os.environ.items())
        if name.upper().startswith(PREFIX)
    ]


def of_file(path: Path | None) -> tuple[list[Variable], dict[str, str]]:
    """The variables in the `.env` at *path*, and its lines about settings that have no form."""
    variables: list[Variable] = []
    problems: dict[str, str] = {}
    try:
        if path is None or not _is_file(path):
            return [], {}
        with path.open(encoding="utf-8-sig") as file:
            for binding in parse_stream(file):
                if binding.error and _is_about_setting(binding.original.string):
                    where = f"{path}, line {binding.original.line}"
                    problems[where] = f"{where}: cannot be read: write NAME=value"
                elif binding.key is not None and binding.key.upper().startswith(PREFIX):
                    variables.append(Variable(binding.key, binding.value, file=str(path)))
    except UnicodeDecodeError:
        return [], {str(path): f"{path}: is not UTF-8 text"}
    except PermissionError:
        return [], {str(path): f"{path}: this user may not read the file"}
    except OSError as error:
        # Those of `_is_file` have no number.
        problem = "cannot be read" if error.errno else str(error)
        return [], {str(path): f"{path}: {problem}"}
    return variables, problems


def _is_file(path: Path) -> bool:
    """
    Return whether *path* is a file; false if it is missing, or a device that hides it.

    Named pipes are read by the settings alone, because each can be read once.
    Raises OSError for a directory, whose settings would be ignored.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise OSError("is a link to a file that does not exist") from None
        return False
    if stat.S_ISDIR(mode):
        raise OSError("is a directory instead of a file")
    return stat.S_ISREG(mode)


def _is_about_setting(line: str) -> bool:
    return line.strip().removeprefix("export ").strip().upper().startswith(PREFIX[:-1])

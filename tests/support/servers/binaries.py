"""
Where servers are installed on this machine.

Invariant: this reads only the file system, which is quick; the newest version wins.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

HOMEBREW = (Path("/opt/homebrew"), Path("/usr/local"), Path("/home/linuxbrew/.linuxbrew"))


def postgres_binaries() -> Path | None:
    """Return the directory with `initdb` and `postgres`."""
    return _newest(
        directory
        for directory in (
            *_glob(Path("/usr/lib/postgresql"), "*/bin"),
            *(found for brew in HOMEBREW for found in _glob(brew, "opt/postgresql*/bin")),
            *_glob(Path("/usr"), "pgsql-*/bin"),
            *_on_path("postgres"),
        )
        if (directory / "initdb").is_file() and (directory / "postgres").is_file()
    )


def rabbitmq_binaries() -> Path | None:
    """
    Return the directory with `rabbitmq-server`.

    Ignores Debian's script of that name on the PATH, which changes to the system's own account
    and directories.
    """
    if shutil.which("erl") is None or shutil.which("epmd") is None:
        return None

    return _newest(
        directory
        for directory in (
            *_glob(Path("/usr/lib/rabbitmq/lib"), "rabbitmq_server-*/sbin"),
            *(found for brew in HOMEBREW for found in _glob(brew, "opt/rabbitmq/sbin")),
            *_on_path("rabbitmq-server"),
        )
        if (directory / "rabbitmq-server").is_file() and (directory / "rabbitmq-env").is_file()
    )


def _glob(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern)) if root.is_dir() else []


def _on_path(program: str) -> list[Path]:
    found = shutil.which(program)
    return [Path(found).resolve().parent] if found else []


def _newest(directories: Iterable[Path]) -> Path | None:
    return max(directories, key=_version, default=None)


def _version(directory: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(directory))]

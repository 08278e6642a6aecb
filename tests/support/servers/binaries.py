"""
Where servers are installed on this machine.

Invariant: this reads only the file system, which is quick; the newest version wins.
"""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

POSTGRES_PROGRAMS = ("initdb", "postgres")
RABBITMQ_PROGRAMS = ("rabbitmq-server", "rabbitmq-env")
REDIS_PROGRAMS = ("redis-server", "valkey-server")
"""Either of them suffices."""

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
        if _has(directory, POSTGRES_PROGRAMS)
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
        if _has(directory, RABBITMQ_PROGRAMS)
    )


def redis_binaries() -> Path | None:
    """Return the directory of `redis-server`, or that of `valkey-server` if there is none."""
    for program in REDIS_PROGRAMS:
        # Not resolved: Debian's link leads to a program of another name, and so to another one.
        found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/bin")
        if found:
            return Path(found).parent
    return None


def psql() -> Path | None:
    """Return the newest `psql` of this machine, which a directory of a server may lack."""
    directory = postgres_binaries()
    return directory / "psql" if directory and _has(directory, ("psql",)) else None


def _has(directory: Path, programs: Iterable[str]) -> bool:
    return all((directory / program).is_file() for program in programs)


def _glob(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern)) if root.is_dir() else []


def _on_path(program: str) -> list[Path]:
    found = shutil.which(program)
    return [Path(found).resolve().parent] if found else []


def _newest(directories: Iterable[Path]) -> Path | None:
    return max(directories, key=_version, default=None)


def _version(directory: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(directory))]

r"""
The one name of a SQLite file.

SQLite and `FileLock` put their side files beside the name by which a process opens the file. If
two processes open one file by names in different places, the locks of one do not hold for the
other, and SQLite itself may corrupt it (sqlite.org/howtocorrupt.html, "File with multiple links").

    a symbolic link, of the file or a folder    is resolved
    a bind mount of the folder                  has the side files, too
    a hard link, or a bind mount of the file    is refused: the other name cannot be found
"""

import errno
import os
from pathlib import Path

from outbox.errors import ConfigurationError

_MOUNTS = Path("/proc/self/mountinfo")


def real_file(path: str | Path, *, setting: str) -> Path:
    """
    Return the absolute path of the file at *path*, without symbolic links.

    The file need not exist. Raises ConfigurationError, which names *setting*, if the file may also
    be opened by a name in another place.
    """
    try:
        real = Path(path).resolve()
        links = real.stat().st_nlink
    except FileNotFoundError:
        return real
    except (OSError, RuntimeError) as error:
        # Links that lead to each other: Python before 3.13 raises RuntimeError in `resolve`.
        is_loop = isinstance(error, RuntimeError) or error.errno == errno.ELOOP
        if is_loop or not os.path.lexists(path):
            raise ConfigurationError(f"{setting}: the path cannot be followed") from None
        return real
    if real.is_dir():
        raise ConfigurationError(f"{setting}: the path is a directory, and must be a file")
    if links > 1:
        raise ConfigurationError(
            f"{setting}: the SQLite file has {links} names (hard links), and its locks work for"
            " one of them only: remove the others, or use symbolic links"
        )
    if str(real) in _mount_points():
        raise ConfigurationError(
            f"{setting}: the SQLite file is itself a mount, so its -wal and lock files are in"
            " another place than those of the mounted file: mount its folder instead"
        )
    return real


def _mount_points() -> set[str]:
    """Return the mount points of this process; none where the system has no list of them."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return set()
    # The kernel writes spaces, tabs, newlines and backslashes as octal numbers.
    return {
        line.split()[4].decode("unicode_escape").encode("latin-1").decode(errors="replace")
        for line in lines
    }

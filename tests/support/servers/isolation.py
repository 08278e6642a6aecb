"""
The directory and the unprivileged account of a private server.

Invariant: the directory is short-named, readable by that account only, and gone after the tests.
"""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

from tests.support.reaper import reaper

# Not TMPDIR: the path of a Unix socket has about 100 characters, and macOS uses up half of them;
# besides, another account could be shut out of it.
DISK = Path("/tmp")  # noqa: S108
MEMORY = Path("/dev/shm")  # noqa: S108
ROOM_BYTES = 4 * 2**30


def memory_or_disk() -> Path:
    """
    Return MEMORY if it has room for the data of test servers, and DISK otherwise.

    A killed process loses nothing of its files there either: the kernel has them. On a disk, to
    create and drop a database takes six times as long.
    """
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return DISK
    usable = not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return MEMORY if usable and found.f_bavail * found.f_frsize >= ROOM_BYTES else DISK


def private_directory(*, owner: str | None = None, parent: Path = DISK) -> Path:
    """Create an empty directory for *owner*, or for ourselves, in *parent*."""
    directory = Path(tempfile.mkdtemp(prefix="mq-", dir=parent))
    reaper().adopt(directory)
    if owner:
        shutil.chown(directory, owner, group_of(owner))

    return directory


def unprivileged_account() -> str | None:
    """Return the account for programs that refuse to run as root, or None if we are not root."""
    if os.geteuid() != 0:
        return None

    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def group_of(account: str | None) -> int | None:
    """Return the id of the group that *account* belongs to, None for None."""
    return pwd.getpwnam(account).pw_gid if account else None


def plain_environment(**variables: str) -> dict[str, str]:
    """
    Return an environment without the variables of the user's own servers.

    PGHOST or RABBITMQ_NODENAME of a developer's shell would misconfigure a private server.
    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return {"PATH": path, "LC_ALL": "C", "TZ": "UTC", **variables}

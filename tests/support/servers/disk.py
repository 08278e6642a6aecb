"""
A small disk, which a test can fill.

Invariant: it is in memory, and is unmounted after the tests. Mounting it needs root.
"""

import errno
import os
import pwd
import shutil
import subprocess
from typing import Self

from tests.support.reaper import reaper
from tests.support.servers.isolation import group_of, private_directory

BLOCK = 4_096


class RootNeededError(Exception):
    """The test needs root, and the tests do not run as root."""


class SmallDisk:
    """A file system of *megabytes* for *owner*, or for ourselves; to be used in `with`."""

    def __init__(self, megabytes: int, *, owner: str | None = None) -> None:
        self._megabytes = megabytes
        self._owner = owner
        self.directory = private_directory()
        self._ballast = self.directory / "ballast"

    def __enter__(self) -> Self:
        user = pwd.getpwnam(self._owner).pw_uid if self._owner else os.geteuid()
        group = group_of(self._owner) if self._owner else os.getegid()
        done = subprocess.run(
            [
                *("mount", "-t", "tmpfs", "mq-test-disk", self.directory),
                *("-o", f"size={self._megabytes}m,uid={user},gid={group},mode=0700"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise RootNeededError(
                "a disk that fills up is a tmpfs, which only root may mount (in a container: "
                "CAP_SYS_ADMIN); docs/reference/fault-matrix.md lists the rows that need it: "
                f"{done.stderr}"
            )
        reaper().mounted(self.directory)
        return self

    def __exit__(self, *_failure: object) -> None:
        subprocess.run(["umount", "--lazy", self.directory], check=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def fill(self) -> None:
        """Leave no block free."""
        block = bytes(BLOCK)
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(block)
            except OSError as full:
                if full.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Free the blocks that `fill` has taken."""
        self._ballast.unlink(missing_ok=True)

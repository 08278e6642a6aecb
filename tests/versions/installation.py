"""
The programs of Postgres, from packages for Node.js that hold nothing else.

Invariant: no script of a package runs. Packages have no symbolic links, so that each has a list of
those that its libraries need.
"""

import json
import platform
import sys
from pathlib import Path

from tests.support.other_clients.installation import InstallationError, install_node

HERE = Path(__file__).parent
PREFIX = "postgres-"
PLATFORM = ("linux", "x86_64")


def versions() -> list[str]:
    """Return the major versions that package.json names, the oldest first."""
    named = json.loads((HERE / "package.json").read_text())["dependencies"]
    return sorted((name.removeprefix(PREFIX) for name in named), key=int)


def programs() -> dict[str, Path]:
    """
    Return the directory of `postgres` and `initdb` for each version; needs the registry of npm.

    Raises InstallationError, also on another platform than that of the packages.
    """
    if (sys.platform, platform.machine()) != PLATFORM:
        raise InstallationError(f"the packages are for {' on '.join(PLATFORM)} only")
    modules = install_node(HERE) / "node_modules"
    return {version: _programs(modules / f"{PREFIX}{version}") for version in versions()}


def _programs(package: Path) -> Path:
    links = package / "native" / "pg-symlinks.json"
    for link in json.loads(links.read_text()) if links.exists() else ():
        source, target = package / link["source"], package / link["target"]
        if not all(path.resolve().is_relative_to(package.resolve()) for path in (source, target)):
            raise InstallationError(f"{package.name} links to a file that is not its own")
        if not target.exists():
            target.unlink(missing_ok=True)
            target.symlink_to(source.name if source.parent == target.parent else source)
    return package / "native" / "bin"

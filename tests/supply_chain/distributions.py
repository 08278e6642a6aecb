"""
The distributions that pip installs for an extra, found without a registry.

Those of the project stand in pyproject.toml, and theirs in the metadata of what is installed here.
"""

import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply_chain.lock import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_PROJECT = PYPROJECT["project"]


def direct(*extras: str) -> list[str]:
    """The requirements of the project with *extras*, and with the extras that those name."""
    found = list(_PROJECT["dependencies"])
    for extra in extras:
        for line in _PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            is_own = canonicalize_name(requirement.name) == _PROJECT["name"]
            found += direct(*requirement.extras) if is_own else [line]
    return list(dict.fromkeys(found))


def installed(*extras: str) -> dict[str, Distribution]:
    """The distributions by their names, without the project itself."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(line, "") for line in direct(*extras)]
    while pending:
        line, asked = pending.pop()
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": asked}):
            continue
        name = canonicalize_name(requirement.name)
        found[name] = distribution(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                pending += [(each, extra) for each in found[name].requires or ()]
    return found


def link(folder: Path, distributions: dict[str, Distribution]) -> None:
    """Let *folder* have the files of *distributions*, and no others."""
    for each in distributions.values():
        roots = {file.parts[0] for file in each.files or () if file.parts[0] != ".."}
        for root in roots - {"__pycache__"}:
            (folder / root).symlink_to(each.locate_file(root))

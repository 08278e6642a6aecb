"""
Programs that tests call and that Python's packages do not have.

Invariant: a program that is missing ends the test with the command that installs it. It is never
a reason to skip the test.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.servers.packages import PackageError, install, packages_installable

# Debian keeps programs for administrators off the PATH of users.
ELSEWHERE = "/usr/sbin:/sbin"


def program(name: str, *, package: str) -> Path:
    """Return the path of *name*, from Debian's *package* if it is not on this machine."""
    if found := _found(name):
        return found
    if packages_installable():
        try:
            install(package)
        except PackageError as error:
            pytest.fail(f"The tests need {name}, and apt-get failed:\n{error}", pytrace=False)
    if found := _found(name):
        return found
    pytest.fail(
        f"The tests need the program {name}: `apt-get install {package}`, or your system's package"
        " that has it.",
        pytrace=False,
    )


def _found(name: str) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path=ELSEWHERE)
    return Path(found) if found else None

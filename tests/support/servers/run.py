"""
The servers of one run of pytest, and its end if one of them is missing.
"""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

from tests.support.servers.choice import ServerMissingError
from tests.support.servers.fleet import Fleet

FLEET = pytest.StashKey[Fleet]()
EXIT_WITHOUT_SERVER = 3
S = TypeVar("S")


def exit_without(*missing: ServerMissingError) -> NoReturn:
    """End the run with the reasons why servers are *missing*."""
    pytest.exit("\n".join(map(str, missing)), returncode=EXIT_WITHOUT_SERVER)


def or_exit(launch: Callable[[], S]) -> S:
    """Return what *launch* returns, or end the run if a server is missing."""
    try:
        return launch()
    except ServerMissingError as missing:
        exit_without(missing)

"""
Database files that all simulations of a run share, because a migration takes long.
"""

from collections.abc import Iterator

import pytest

from tests.reliability.simulation.database_files import DatabaseFiles, temporary_database_files


@pytest.fixture(scope="session")
def database_files() -> Iterator[DatabaseFiles]:
    with temporary_database_files() as here:
        yield here

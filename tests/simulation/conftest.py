"""
One ground for all simulations of a run: migrating a database takes longer than to use it.
"""

from collections.abc import Iterator

import pytest

from tests.reliability.simulation.database_files import Ground, ground


@pytest.fixture(scope="session")
def simulation_ground() -> Iterator[Ground]:
    with ground() as here:
        yield here

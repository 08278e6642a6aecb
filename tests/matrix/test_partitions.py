"""
An ordered consumer with partitions under kills and changes of its partitions.
"""

import pytest

from tests.support import partitioned
from tests.support.partition_faults import Killing
from tests.support.partitioned import KEYS, PartitionedDeployment

MEMBERS = 4


@pytest.mark.timeout(900)
async def test_keys_stay_in_order_through_fifty_kills_and_4_to_16_to_3_partitions(
    environment, tmp_path, pytestconfig
):
    """Processes are killed one after another, also while the number of partitions changes."""
    kills = min(pytestconfig.getoption("kills"), 50)
    urls = (environment.database_url, environment.broker_url)
    async with PartitionedDeployment(*urls, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            await connection.run_sync(partitioned.metadata.create_all)
        members = [await deployment.member() for _ in range(MEMBERS)]
        await deployment.relay()

        killing = Killing(deployment, members)
        count = await killing.scale_through([16, 3], kills=kills)

        assert killing.kills >= kills
        assert await deployment.steps() == {key: list(range(count)) for key in KEYS}
        assert await deployment.dead() == []
        assert await deployment.partitions() == {(0, 0), (3, 0), (3, 1), (3, 2)}

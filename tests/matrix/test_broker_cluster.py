"""
Row F12: a cluster of three nodes, of which some are killed or hang.

The tests start a cluster of their own, because they must not kill nodes of an external one.
"""

import pytest

from outbox.tables import outbox
from tests.support.checked_deployment import QUEUE, CheckedDeployment
from tests.support.servers.cluster import RabbitmqCluster
from tests.support.servers.fleet import RABBITMQ

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


BEYOND_WHAT_IS_TAKEN = 500
"""Effects: more than the prefetched messages that the consumer had when the fault began."""

IGNORE_PARTITIONS = pytest.mark.parametrize("cluster", ["ignore"], indirect=True)
"""An isolated node keeps running: the tests check what a node without a majority does."""
PAUSE_MINORITY = pytest.mark.parametrize("cluster", ["pause_minority"], indirect=True)
"""A node that was considered dead restarts its applications when it sees the others again."""


@pytest.fixture
async def cluster(request):
    cluster = RabbitmqCluster(RABBITMQ.programs(), partitions=request.param)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def vhost(cluster):
    return await cluster.nodes[0].create_vhost()


@IGNORE_PARTITIONS
@pytest.mark.selection
async def test_the_leader_of_a_queue_is_killed_under_load_and_another_takes_over(
    postgres_url, cluster, vhost, tmp_path
):
    """F12: kill leader."""
    async with CheckedDeployment(postgres_url, cluster.urls(vhost), tmp_path) as deployment:
        await deployment.start_processes()
        async with deployment.under_load():
            leader = await cluster.leader(vhost, QUEUE)
            with deployment.record_fault("leader killed"):
                await leader.kill()
            await deployment.makes_progress(by=BEYOND_WHAT_IS_TAKEN)
            await leader.start()
            await deployment.makes_progress()
        await deployment.wait_until_settled()

        await deployment.check_guarantees(progress_seconds=30)


@IGNORE_PARTITIONS
async def test_a_cluster_without_a_majority_confirms_nothing_and_recovers(
    postgres_url, cluster, vhost, tmp_path
):
    """
    F12: kill two of three.

    Both processes are connected to the third node. It does not confirm messages on an open
    channel, and refuses them on a new one.
    """
    *others, last = cluster.nodes
    settings = {"MQ_PUBLISH_TIMEOUT_SECONDS": "2"}
    async with CheckedDeployment(
        postgres_url, last.url(vhost), tmp_path, **settings
    ) as deployment:
        relay, _ = await deployment.start_processes()
        await cluster.leader(vhost, QUEUE)
        async with deployment.under_load():
            pass
        await deployment.wait_until_settled()
        with deployment.record_fault("two of three killed"):
            for node in others:
                await node.kill()
            await deployment.produce(50)
            await relay.wait_for_line("server_unavailable", within=60)
            await deployment.assert_outbox_stays(count=50)
            assert {row["last_error"] for row in await deployment.rows(outbox)} <= {
                None,
                "refused",
            }
            assert await deployment.dead() == []
            await cluster.revive()
        await deployment.wait_until_settled()

        await deployment.check_guarantees(progress_seconds=40)


@PAUSE_MINORITY
@pytest.mark.parametrize("whose", ["leader", "follower"])
async def test_a_cluster_works_without_a_node_that_hangs(
    postgres_url, cluster, vhost, tmp_path, whose
):
    """F12: pause node. The processes are connected to that node, or to another one."""
    urls = cluster.urls(vhost)
    async with CheckedDeployment(
        postgres_url, urls, tmp_path, MQ_HEARTBEAT_SECONDS="3"
    ) as deployment:
        await deployment.start_processes()
        async with deployment.under_load():
            leader = await cluster.leader(vhost, QUEUE)
            victim = next(n for n in cluster.nodes if (n is leader) == (whose == "leader"))
            with deployment.record_fault(f"{whose} hangs"), victim.frozen():
                await deployment.makes_progress(by=BEYOND_WHAT_IS_TAKEN)
            await deployment.makes_progress()
        await deployment.wait_until_settled()

        await deployment.check_guarantees(progress_seconds=30)

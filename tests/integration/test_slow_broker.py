"""
A network to the broker that is slower than the deadline of a publish.
"""

import outbox
from tests.bad_inputs.test_rows import seen_by
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.network_conditions import NetworkConditions
from tests.support.proxy import Proxy

BODY, RATE = 450_000, 200_000
SLOW = NetworkConditions(bytes_per_second=RATE)


async def test_large_events_arrive_once_although_each_takes_longer_than_the_deadline(
    postgres_url, rabbitmq_url, tmp_path
):
    """The batch also takes longer than Postgres lets a session idle in a transaction."""
    transport = await seen_by(rabbitmq_url)
    settings = {"MQ_PUBLISH_TIMEOUT_SECONDS": "2"}
    async with (
        Proxy(rabbitmq_url) as proxy,
        Deployment(postgres_url, proxy.url, tmp_path, **settings) as deployment,
    ):
        await deployment.relay()
        async with proxy.under(SLOW):
            async with deployment.engine.begin() as connection:
                for key in (None, None, "k", "k"):
                    event = an_event(payload={"text": "x" * BODY}, ordering_key=key)
                    await connection.execute(outbox.insert(event))
            await eventually(deployment.is_drained, within=40)

        depth = await transport.depth("seen")
        assert depth is not None
        assert depth.messages == 4
        assert "server_unavailable" not in deployment.logs()

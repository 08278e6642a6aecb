"""
The bad messages of `test_poison_in_a_healthy_stream`, all at once, for every kind of consumer.
"""

from collections import Counter
from dataclasses import replace

import pytest

from tests.bad_inputs.test_poison_in_a_healthy_stream import (
    BODY,
    GIVEN_UP,
    LEAK_MARKER,
    REFUSED_BY_RABBITMQ_4,
    a_message,
)
from tests.support.consumer_deployment import ConsumerDeployment
from tests.support.eventually import eventually
from tests.support.malformed_messages import (
    MALFORMED_PROPERTIES,
    publish_as_it_is,
    publish_raw,
    raw_channel,
)

# Every broker accepts these; the other test publishes all of them to a broker that does.
POISON = {name: each for name, each in GIVEN_UP.items() if name != REFUSED_BY_RABBITMQ_4}
LANES = [f"{number:032x}" for number in range(3)]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("batch", "frames"),
        ("list", "frames"),
        ("leased", "frames"),
        ("ordered", "frames"),
        ("single", "callback"),
    ],
)
async def test_bad_messages_are_set_aside_by_every_kind_of_consumer_and_the_others_flow(
    postgres_url, rabbitmq_url, tmp_path, kind, method
):
    """In an ordered consumer they share their lanes with healthy ones."""
    sent, expected = [], {name: reason for name, (reason, _) in POISON.items()}
    malformed = dict(MALFORMED_PROPERTIES)
    async with ConsumerDeployment(
        (postgres_url, rabbitmq_url),
        tmp_path,
        app="kinds",
        KIND=kind,
        MQ_DELIVERY_METHOD=method,
        MQ_DELIVERY_LIMIT="2",
        MQ_MAX_RETRIES="1",
        MQ_UNSUPPORTED_WAIT_SECONDS="0",
    ) as deployment:
        consumer = await deployment.consumer()
        async with raw_channel(rabbitmq_url) as channel:
            for number, (_, message) in enumerate(POISON.values()):
                lane = {"x-outbox-lane": LANES[number % 3]} if kind == "ordered" else {}
                healthy = a_message()
                sent.append(healthy.message_id)
                for each in (healthy, message):
                    headers = {**each.headers, **lane}
                    await publish_as_it_is(channel, replace(each, headers=headers))
                if method == "frames" and malformed:
                    odd, (flags, properties) = malformed.popitem()
                    expected[odd] = "malformed"
                    await publish_raw(channel, BODY, flags, properties, queue=deployment.queue)
            if method == "callback":
                # It ends the connection until the broker moves it, and then stays at the broker.
                flags, properties = malformed["the largest timestamp"]
                await publish_raw(channel, BODY, flags, properties, queue=deployment.queue)
                last = a_message()
                sent.append(last.message_id)
                await publish_as_it_is(channel, last)

            async def all_done() -> bool:
                done = deployment.calls() if kind == "leased" else await deployment.applied()
                letters = [(row["message_id"], row["body"]) for row in await deployment.dead()]
                if method == "callback":
                    # An ack that is lost with its connection leads to a second letter.
                    letters = list(set(letters))
                return len(done) == len(sent) and len(letters) == len(expected)

            await eventually(all_done, within=30)

        reasons = Counter(row["reason"] for row in await deployment.dead())
        if method == "frames":
            assert reasons == Counter(expected.values())
        else:
            assert set(reasons) == set(expected.values())
        assert consumer.running
        assert LEAK_MARKER not in deployment.logs()

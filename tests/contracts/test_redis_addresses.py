"""
Clients find the server of each kind of URL, and errors name no password, user or key.
"""

from contextlib import aclosing
from datetime import timedelta

import pytest
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.server_settings import ServerSettings
from outbox.transports.redis.addresses import HASH_TAG, open_client
from outbox.transports.redis.connect_errors import redis_errors
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.servers.ports import free_port
from tests.support.servers.private_redis import PrivateRedis, RedisTls
from tests.support.servers.redis_groups import Member, RedisCluster, RedisPair

NAME = "relay on host"
KEY = f"{HASH_TAG.decode()}:test"
SECONDS = timedelta(seconds=5)


class Counter:
    open = 0

    def inc(self) -> None:
        self.open += 1

    def dec(self) -> None:
        self.open -= 1


def client_of(url: str, *, reply_within=SECONDS, **options):
    urls = ServerSettings(broker_url=url).brokers
    return open_client(urls, name=NAME, reply_within=reply_within, **options)


async def refusal(url: str) -> BrokerUnavailable:
    client = client_of(url)
    try:
        with (
            pytest.raises(BrokerUnavailable) as caught,
            redis_errors("MQ_BROKER_URL", encrypted=url.startswith("rediss")),
        ):
            await client.set(KEY, "value")
    finally:
        await client.aclose()
    return caught.value


async def test_a_client_uses_the_database_of_its_url_under_its_name(redis_server, redis_url):
    counter = Counter()
    client = client_of(redis_url, connections=counter)

    await client.set(KEY, "value")

    number = int(redis_url.rpartition("/")[2])
    assert await redis_server.call("GET", KEY, database=number) == b"value"
    assert b" name=relay-on-host " in await redis_server.call("CLIENT", "LIST")
    assert counter.open == 1
    await client.aclose()
    assert counter.open == 0


async def test_no_command_is_sent_twice_when_its_reply_is_late(redis_server, redis_url):
    client = client_of(redis_url, reply_within=SECONDS / 50)
    async with aclosing(client):
        pipeline = client.pipeline(transaction=False)
        pipeline.incr(KEY)
        pipeline.wait(1, 1_000)  # for a replica, of which there is none
        with pytest.raises(BrokerUnavailable, match="no answer in time"), redis_errors():
            await pipeline.execute()

    number = int(redis_url.rpartition("/")[2])
    assert await redis_server.call("GET", KEY, database=number) == b"1"


CHANGES = {
    "another password": lambda url: url.with_password("hunter2"),
    "another user": lambda url: url.with_user("hunter2"),
    "no password": lambda url: url.with_user(None).with_password(None),
    "a database": lambda url: url.with_path("/99999"),
    "a cluster": lambda url: url.with_path("/0").with_query(cluster="true"),
    "sentinels": lambda url: url.with_query(sentinel="mq"),
    "a port": lambda url: url.with_port(free_port()),
    "tls": lambda url: url.with_scheme("rediss"),
}


@pytest.mark.parametrize(
    ("change", "reason", "refused"),
    [
        ("another password", "refuses user or password", True),
        ("another user", "refuses user or password", True),
        ("no password", "demands a password", True),
        ("a database", "no database of this number", True),
        ("a cluster", "is no cluster", True),
        ("sentinels", "names a server of another kind", True),
        ("a port", "connection refused", False),
        ("tls", "as from a port that does not speak TLS", False),
    ],
)
async def test_a_connection_that_cannot_be_made_has_a_reason(redis_url, change, reason, refused):
    error = await refusal(str(CHANGES[change](URL(redis_url))))

    assert reason in str(error)
    assert error.refused is refused
    assert "hunter2" not in str(error)
    assert URL(redis_url).password not in str(error)


async def test_each_sentinel_that_does_not_answer_is_named_once():
    first, second = free_port(), free_port()

    error = await refusal(f"redis://localhost:{first},localhost:{second}?sentinel=mq")

    reason = "connection refused: no server listens there"
    assert str(error) == (
        f"MQ_BROKER_URL: cannot connect to localhost:{first}: {reason};"
        f" cannot connect to localhost:{second}: {reason}"
    )


async def test_a_user_without_a_right_is_told_so_without_command_and_key(redis_server, redis_url):
    await redis_server.call("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+client")
    await redis_server.call("ACL", "SETUSER", "reader", "+select")
    try:
        error = await refusal(str(URL(redis_url).with_user("reader").with_password("secret")))
    finally:
        await redis_server.call("ACL", "DELUSER", "reader")

    assert str(error) == "MQ_BROKER_URL: the user lacks a right: grant it with ACL SETUSER"
    assert error.refused


async def test_tls_verifies_the_server_by_the_named_authority(redis_binaries, tmp_path):
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger.pem")
    own = authority.pair("127.0.0.1", owner="app")
    tls = RedisTls(authority.pair("127.0.0.1", name="server"), clients_of=authority)
    server = Member(PrivateRedis(redis_binaries, tls=tls))
    try:
        server.launch()
        url = f"{server.node.url}/0?cafile={authority.path}"
        certified = f"{url}&certfile={own.certificate}&keyfile={own.key}"
        client = client_of(certified)
        async with aclosing(client):

            async def answers() -> bool:
                with redis_errors(encrypted=True):
                    return bool(await client.ping())

            await eventually(lambda: b"Ready to accept" in server.log)
            assert await answers()
        without = await refusal(url)
        unknown = await refusal(f"{server.node.url}/0?cafile={stranger.path}")
    finally:
        server.close()

    assert "certificate of the client" in str(without)
    assert "signed by an unknown authority" in str(unknown)


async def test_sentinels_lead_to_the_primary_before_and_after_a_failover(redis_binaries):
    pair = RedisPair(redis_binaries)
    try:
        await pair.start()
        client = client_of(pair.url())
        async with aclosing(client):
            await client.set(KEY, "before")
            await client.wait(1, 5_000)
            lost = await pair.primary()
            await pair.sentinels[0].kill()  # the others are asked
            await lost.kill()
            with pytest.raises(BrokerUnavailable), redis_errors():
                await client.set(KEY, "lost")
            await pair.fail_over_from(lost)

            assert await client.get(KEY) == b"before"
            await client.set(KEY, "after")
    finally:
        pair.close()


async def test_a_service_that_no_sentinel_knows_is_named_by_its_parameter(redis_binaries):
    pair = RedisPair(redis_binaries)
    try:
        await pair.start()
        error = await refusal(pair.url().replace("sentinel=mq", "sentinel=hunter2"))
    finally:
        pair.close()

    assert "the Sentinel does not know the primary that sentinel names" in str(error)
    assert "hunter2" not in str(error)


async def test_a_cluster_leads_to_the_owner_of_the_slot_also_after_it_has_moved(redis_binaries):
    cluster = RedisCluster(redis_binaries)
    try:
        await cluster.start()
        owner = await cluster.owner(KEY)
        client = client_of(cluster.url)
        async with aclosing(client):
            await client.set(KEY, "value")
            assert await owner.call("GET", KEY) == b"value"
            await client.delete(KEY)

            target = next(node for node in cluster.nodes if node is not owner)
            await cluster.move_empty_slot(KEY, target)
            with pytest.raises(BrokerUnavailable, match="moved the keys"), redis_errors():
                await client.set(KEY, "moved")

            async def written() -> bool:
                try:
                    with redis_errors():
                        return bool(await client.set(KEY, "moved"))
                except BrokerUnavailable:
                    await client.connection_pool.disconnect()
                    return False

            await eventually(written)
            assert await target.call("GET", KEY) == b"moved"
    finally:
        cluster.close()

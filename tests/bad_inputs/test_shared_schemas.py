"""
Two services on one schema: each would publish the events of the other, or drop its messages.
"""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox import insert
from outbox.audit_tables import audit_log
from outbox.database.engine import create_engine
from tests.support.builders import an_event
from tests.support.commands import CommandLine
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.roles import documented_rights, role

CONSUMER = "tests.support.effects:consumer"
REASON = ("--because", "the service was renamed")


@pytest.fixture(params=["servers", "embedded"])
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Give the URLs of a migrated database and of a broker."""
    names = ["postgres_url", "rabbitmq_url"]
    if request.param == "embedded":
        names = ["sqlite_url", "embedded_broker_url"]
    database, broker = map(request.getfixturevalue, names)
    return database, broker


async def test_a_second_service_on_a_schema_is_refused_until_it_adopts_the_outbox(urls, tmp_path):
    database_url, broker_url = urls
    run = CommandLine(
        tmp_path, MQ_DATABASE_URL=database_url, MQ_BROKER_URL=broker_url, MQ_METRICS_PORT="0"
    )
    theirs = {"MQ_MAIN_EXCHANGE": "theirs"}
    async with Deployment(database_url, broker_url, tmp_path) as deployment:
        first = await deployment.relay()
        assert (await run.run("relay", "topology", **theirs)).code == 0

        for verb in ("check", "run"):
            done = await run.run("relay", verb, **theirs)
            assert done.code == 2
            problem = "events of this schema go to the exchange health_data_exchange"
            assert problem in done.out + done.err
            assert "relay topology --adopt" in done.out + done.err

        done = await run.run("relay", "topology", "--adopt", **theirs)
        assert (done.code, done.err.split()[1]) == (2, "--because:")
        assert (await run.run("relay", "topology", "--adopt", *REASON, **theirs)).code == 0
        assert (await run.run("relay", "check", **theirs)).code == 0
        await first.wait_for_line("events of this schema go to the exchange theirs")
        assert (await run.run("relay", "check")).code == 2

        (entry,) = await deployment.rows(audit_log)
        assert (entry["action"], entry["source"]) == ("adopt", "relay")
        assert entry["because"] == REASON[1]


async def test_two_consumers_of_one_name_with_two_queues_are_refused(urls, tmp_path):
    database_url, broker_url = urls
    run = CommandLine(
        tmp_path, MQ_DATABASE_URL=database_url, MQ_BROKER_URL=broker_url, MQ_METRICS_PORT="0"
    )
    theirs = {"MQ_PROCESSING_QUEUE": "theirs"}
    async with Deployment(database_url, broker_url, tmp_path) as deployment:
        first = await deployment.consumer()
        assert (await run.run("consumer", "topology", CONSUMER, **theirs)).code == 0

        for verb in ("check", "run"):
            done = await run.run("consumer", verb, CONSUMER, **theirs)
            assert done.code == 2
            assert "belong to the queue health_data_processing.effects" in done.out + done.err

        adopted = await run.run("consumer", "topology", CONSUMER, "--adopt", *REASON, **theirs)
        assert adopted.code == 0
        assert (await run.run("consumer", "check", CONSUMER, **theirs)).code == 0
        # The running consumer handles no message until its queue is the recorded one again.
        await first.wait_for_line("belong to the queue theirs")
        await deployment.relay()
        async with deployment.engine.begin() as connection:
            await connection.execute(insert(event := an_event()))
        await eventually(deployment.is_drained)
        assert await deployment.applied() == []
        assert (await run.run("consumer", "topology", CONSUMER, "--adopt", *REASON)).code == 0
        await deployment.applies(1)
        assert await deployment.applied() == [event.id]


async def test_a_role_without_the_right_to_adopt_gets_the_grant_to_run(
    postgres_url, embedded_broker_url, tmp_path
):
    async with role(postgres_url, *documented_rights("relay")) as (_, url):
        run = CommandLine(tmp_path, MQ_DATABASE_URL=url, MQ_BROKER_URL=embedded_broker_url)
        done = await run.run("relay", "topology", "--adopt", *REASON)

    assert done.code == 2
    assert done.err.splitlines() == [
        "error: no privilege: GRANT UPDATE ON outbox_targets",
        "error: no privilege: GRANT INSERT ON audit_log",
    ]
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    async with engine.connect() as connection:
        assert (await connection.execute(sa.select(audit_log))).all() == []
    await engine.dispose()

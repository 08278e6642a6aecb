"""
`consumer run --processes`: real processes that share the work of one consumer.
"""

import asyncio
import os
import signal
from datetime import timedelta
from uuid import UUID

import pytest

from consumer.settings import ConsumerSettings
from consumer.supervision.run import supervise
from consumer.supervision.scaling import Limits, Pace
from outbox.runtime.service import ExitCode
from tests.support import intervals, probes, slow
from tests.support.consumer_deployment import ConsumerDeployment, a_message
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess
from tests.support.reaper import process_exists
from tests.support.supervised import CONSUMER, at_work, lines, pids, supervised

GIVES_UP_SOON = {"MQ_DELIVERY_LIMIT": "3", intervals.VARIABLE: "suspects"}
PACE = Pace(
    look_every=timedelta(seconds=0.3),
    window=timedelta(seconds=0.6),
    cooldown=timedelta(seconds=1),
)


@pytest.fixture
async def deployment(urls, tmp_path):
    async with ConsumerDeployment(
        urls, tmp_path, app="slow", MQ_CONCURRENCY="1", MQ_PREFETCH="1"
    ) as made:
        yield made


async def test_processes_share_the_work_and_a_killed_one_is_replaced(deployment):
    async with supervised(deployment, "--processes", "2") as supervisor:
        messages = [a_message("test.slow") for _ in range(20)]
        deployment.outage.touch()
        await deployment.publish_all(messages)
        await eventually(deployment.calls)
        os.kill(pids(supervisor)[0], signal.SIGKILL)
        await eventually(lambda: len(pids(supervisor)) == 3)
        deployment.end_leases()
        deployment.outage.unlink()

        await deployment.applies(20, within=30)
        [ended] = lines(supervisor, "process_ended")
        assert (ended["process_number"], ended["exit_code"]) == (1, -signal.SIGKILL)
        assert await supervisor.terminate() == 0
        assert len(await deployment.applied()) == 20
    assert not any(process_exists(pid) for pid in pids(supervisor))


async def test_one_page_has_the_metrics_of_all_processes(
    sqlite_url, embedded_broker_url, tmp_path
):
    urls = (sqlite_url, embedded_broker_url)
    async with (
        ConsumerDeployment(urls, tmp_path, app="slow") as deployment,
        supervised(deployment, "--processes", "2") as supervisor,
    ):
        await deployment.publish(*[a_message("test.happened") for _ in range(4)])
        await deployment.applies(4)
        port = lines(supervisor, "probes_listening")[0]["port"]

        async def handled():
            page = (await probes.get(port, "/metrics")).decode()
            counters = [
                line
                for line in page.splitlines()
                if line.startswith("mq_messages_processed_total")
            ]
            assert all('process="' in line for line in counters)
            return sum(float(line.split()[-1]) for line in counters) == 4 and page

        page = await eventually(handled)
        assert "mq_processes_wanted 2.0" in page
        assert 'mq_active_connections{process="1"}' in page
        assert 'mq_active_connections{process="2"}' in page


async def test_processes_of_a_supervisor_that_is_killed_finish_their_work_and_end(
    sqlite_url, embedded_broker_url, tmp_path
):
    urls = (sqlite_url, embedded_broker_url)
    async with at_work(urls, tmp_path) as (deployment, supervisor):
        supervisor.kill()

        await eventually(lambda: len(lines(supervisor, "stop_requested")) == 2)
        deployment.outage.unlink()
        await eventually(lambda: not any(process_exists(pid) for pid in pids(supervisor)))
        assert len(await deployment.applied()) == 1
        assert len(lines(supervisor, "stopped")) == 2


async def test_a_backlog_adds_a_process_and_an_empty_queue_ends_it_again(
    postgres_url, rabbitmq_url, tmp_path, monkeypatch
):
    urls, stop = (postgres_url, rabbitmq_url), asyncio.Event()
    async with ConsumerDeployment(
        urls, tmp_path, app="slow", MQ_CONCURRENCY="1", MQ_PREFETCH="1"
    ) as deployment:
        for name, value in deployment.settings.items():
            monkeypatch.setenv(name, value)
        settings = ConsumerSettings(_env_file=None)
        supervising = asyncio.ensure_future(
            supervise(
                "tests.support.slow:consumer",
                slow.consumer,
                settings,
                stop,
                allowed=Limits(1, 2),
                pace=PACE,
                program=CONSUMER,
            )
        )

        async def consumers():
            depth = await deployment.broker.depth(deployment.queue)
            return depth.consumers if depth is not None else 0

        async def has(number):
            async def it_has():
                return await consumers() == number

            await eventually(it_has, within=30)

        try:
            await has(1)
            deployment.outage.touch()
            await deployment.publish_all([a_message("test.slow") for _ in range(50)])
            await has(2)
            deployment.outage.unlink()
            await deployment.applies(50, within=30)
            await has(1)
        finally:
            stop.set()
            code = await supervising

        assert code == ExitCode.STOPPED
        assert len(await deployment.applied()) == 50


async def test_processes_that_cannot_start_end_the_supervisor(
    sqlite_url, embedded_broker_url, tmp_path
):
    """The database is opened by each process, not by the supervisor."""
    urls = (sqlite_url.replace("outbox.db", "missing.db"), embedded_broker_url)
    deployment = ConsumerDeployment(urls, tmp_path, app="slow")
    supervisor = ChildProcess(
        [*CONSUMER, "run", "tests.support.slow:consumer", "--processes", "2"],
        log=tmp_path / "supervisor.log",
        env=deployment.settings,
    )
    async with supervisor:
        assert await supervisor.wait(within=30) == ExitCode.BAD_CONFIGURATION

        [gave_up] = lines(supervisor, "supervisor_gave_up")
        assert gave_up["exit_code"] == ExitCode.BAD_CONFIGURATION
        assert lines(supervisor, "configuration_refused")
    await deployment.engine.dispose()


async def test_a_signal_to_all_processes_counts_once(sqlite_url, embedded_broker_url, tmp_path):
    """As Ctrl-C on a terminal, or a service manager that stops a whole unit."""
    urls = (sqlite_url, embedded_broker_url)
    async with at_work(urls, tmp_path) as (deployment, supervisor):
        os.killpg(supervisor.pid, signal.SIGTERM)

        await eventually(lambda: len(lines(supervisor, "signal_received")) == 3)
        deployment.outage.unlink()
        assert await supervisor.wait() == ExitCode.STOPPED
        assert len(await deployment.applied()) == 1
        assert all(line["draining"] for line in lines(supervisor, "signal_received"))


@pytest.mark.fault
async def test_a_message_that_ends_each_process_is_given_up_before_its_supervisor_gives_up(
    postgres_url, rabbitmq_url, tmp_path
):
    urls = (postgres_url, rabbitmq_url)
    async with (
        ConsumerDeployment(urls, tmp_path, **GIVES_UP_SOON) as deployment,
        supervised(deployment, "--processes", "1", module="shortened_behaviours") as supervisor,
    ):
        killer, neighbour = a_message("test.kills"), a_message("test.happened")
        await deployment.publish(killer, neighbour)

        dead = await deployment.wait_for_dead_letters(1, within=90)

        assert dead[killer.message_id]["reason"] == "delivery_limit"
        await deployment.applies(1)
        assert await deployment.applied() == [UUID(neighbour.message_id)]
        assert {line["exit_code"] for line in lines(supervisor, "process_ended")} == {9}
        assert await supervisor.terminate() == ExitCode.STOPPED


async def test_a_second_signal_ends_all_processes_at_once(
    sqlite_url, embedded_broker_url, tmp_path
):
    urls = (sqlite_url, embedded_broker_url)
    async with at_work(urls, tmp_path) as (deployment, supervisor):
        os.kill(supervisor.pid, signal.SIGTERM)
        await supervisor.wait_for_line("stop_requested")

        assert await supervisor.terminate(within=15) == ExitCode.DRAIN_DEADLINE

        assert await deployment.applied() == []
    assert not any(process_exists(pid) for pid in pids(supervisor))

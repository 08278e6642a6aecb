"""
The roles of processes in a run, and how a process of each role is started.
"""

from pathlib import Path

from tests.reliability import consumers
from tests.reliability.proxies import Proxies
from tests.reliability.supervisor import SupervisedProcess, process_environment

RELAY, FREE, ORDERED = "relay", consumers.free.name, consumers.ordered.name

SETTINGS = {
    "MQ_METRICS_PORT": "0",
    "MQ_LOG_FORMAT": "json",
    "MQ_BATCH_SIZE": "100",
    "MQ_HEARTBEAT_SECONDS": "3",
    "MQ_POLL_MAX_SECONDS": "0.2",
    "MQ_PUBLISH_TIMEOUT_SECONDS": "3",
    "MQ_PUBLISH_RETRY_FIRST_SECONDS": "0.5",
    "MQ_PUBLISH_RETRY_MAX_SECONDS": "2",
    "MQ_RECONNECT_MAX_SECONDS": "1",
    "MQ_RETRY_DELAYS": "[0.2, 1]",
}
"""Of all processes: what is found out by time is found out soon."""

UNHURRIED = {"MQ_HEARTBEAT_SECONDS": "10", "MQ_PUBLISH_TIMEOUT_SECONDS": "15"}
"""Instead, where copies are counted: a machine that is only slow must not look like a fault."""


def create_process(
    role: str, number: int, proxies: Proxies, directory: Path, **settings: str
) -> SupervisedProcess:
    """Process *number* of *role*; *settings* are further environment variables."""
    command = ["consumer", "run", f"{consumers.__name__}:{role}"]
    database, broker = proxies.consumer_database, proxies.consumer_broker
    if role == RELAY:
        command = ["relay", "run"]
        database, broker = proxies.relay_database, proxies.relay_broker
    own = {
        "MQ_DATABASE_URL": database.url,
        "MQ_BROKER_URL": broker.url,
        consumers.DIRECTORY: str(directory),
    }
    return SupervisedProcess(
        role,
        number,
        command,
        announces=f"{command[0]}_started",
        directory=directory,
        env=process_environment(**{**SETTINGS, **own, **settings}),
    )

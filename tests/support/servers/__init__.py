"""
The real Postgres and RabbitMQ of the tests, whatever the machine has to offer.

Read `choice.py` for where a server comes from, `server.py` for what can be done to it.
Invariant: a server is started by the first test that needs it, and ended with the test run.
"""

from tests.support.servers.choice import ServerMissingError
from tests.support.servers.fleet import Fleet
from tests.support.servers.instance import NotOursError
from tests.support.servers.management import Depth, Management
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitmqServer

__all__ = [
    "Depth",
    "Fleet",
    "Management",
    "NotOursError",
    "PostgresServer",
    "RabbitmqServer",
    "ServerMissingError",
]

"""
The real Postgres, RabbitMQ and Redis of the tests.

`choice.py` decides where a server comes from; `server.py` starts, stops and kills it.
Invariant: the first test that needs a server starts it, and the end of the run ends it.
"""

from tests.support.servers.choice import ServerMissingError
from tests.support.servers.fleet import Fleet
from tests.support.servers.instance import NotOursError
from tests.support.servers.management import Depth, Management
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitmqServer
from tests.support.servers.redis import RedisServer

__all__ = [
    "Depth",
    "Fleet",
    "Management",
    "NotOursError",
    "PostgresServer",
    "RabbitmqServer",
    "RedisServer",
    "ServerMissingError",
]

"""
The plan of a simulated system: how many processes of each role, and their settings.
"""

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

from pydantic import SecretStr

from consumer import Consumer
from consumer.settings import ConsumerSettings
from relay.settings import RelaySettings
from tests.reliability.simulation.database_files import CONSUMERS, PRODUCERS, DatabaseFiles
from tests.reliability.simulation.handlers import Handlers, leased, transactional

RELAY = "relay"
ETL = "etl"
LEDGER = "ledger"
MAIL = "mail"
PRODUCER = "producer"
OPERATOR = "operator"

RETRY_SECONDS = (0.5, 2.0)
RETENTION_HOURS = 2.0
REPLAY_WINDOW_HOURS = 1.0
LONGER_THAN_RETRIES_SECONDS = 20.0
UNSUPPORTED_WAIT = timedelta(minutes=15)
"""The default of MQ_UNSUPPORTED_WAIT_SECONDS."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Processes and settings of a world.

    Args:
        relays: How many; on SQLite one works, and the others stand by.
        etl: Processes of a consumer whose handlers write into its database.
        ledger: Processes of an ordered one.
        mail: Processes of one whose effects are outside.
        batch: How many events a relay claims at once.
        handled_together: How many messages share a transaction of the first consumer.
        expires: Whether messages for the first consumer expire.
        delivery_limit: How many lost deliveries the broker puts up with.
        dead_letters: Whether the relay dead-letters an event after three attempts.
        priorities: Whether the broker delivers messages of a high priority first.
        rolling: Whether the first process of each transactional consumer has the old version.

    """

    relays: int = 1
    etl: int = 1
    ledger: int = 1
    mail: int = 1
    batch: int = 4
    handled_together: int = 1
    expires: bool = False
    delivery_limit: int = 20
    dead_letters: bool = False
    priorities: bool = False
    rolling: bool = False

    @property
    def processes(self) -> dict[str, str]:
        """The roles of all processes, by name."""
        counts = {RELAY: self.relays, ETL: self.etl, LEDGER: self.ledger, MAIL: self.mail}
        return {
            f"{role}-{number}": role
            for role, count in counts.items()
            for number in range(1, count + 1)
        }

    @property
    def consumers(self) -> list[str]:
        """The names of all consumers."""
        return [role for role in (ETL, LEDGER, MAIL) if role in self.processes.values()]

    def reasons(self, *, disturbances: int, lasted: timedelta) -> frozenset[str]:
        """
        The reasons for which events may be dead-lettered whose handlers do not fail for good.

        Args:
            disturbances: How many faults may have lost a delivery.
            lasted: Seconds that have passed on the wall clock.

        """
        possible = {
            "expired": self.expires,
            "unroutable": self.dead_letters,
            "refused": self.dead_letters,
            "delivery_limit": disturbances >= self.delivery_limit,
            "no_handler": self.rolling and lasted >= UNSUPPORTED_WAIT,
            "too_old_to_dedupe": lasted >= timedelta(hours=RETENTION_HOURS),
        }
        return frozenset(reason for reason, is_possible in possible.items() if is_possible)

    def declared(self, handlers: Handlers, *, is_old: bool = False) -> dict[str, Consumer]:
        """The consumers, by name; those of the version before the rollout if *is_old*."""
        together = self.handled_together
        made = {
            ETL: transactional(ETL, handlers, ordered=False, batch_size=together, is_old=is_old),
            LEDGER: transactional(LEDGER, handlers, ordered=True, batch_size=1, is_old=is_old),
            MAIL: leased(MAIL, handlers),
        }
        return {name: made[name] for name in self.consumers}


def drawn(jitter: Random) -> Plan:
    """A random plan."""
    return Plan(
        relays=jitter.choice((1, 1, 2)),
        etl=jitter.choice((1, 2)),
        ledger=jitter.choice((0, 1, 2)),
        mail=jitter.choice((0, 0, 1)),
        batch=jitter.choice((2, 4, 8)),
        handled_together=jitter.choice((1, 1, 3)),
        expires=jitter.random() < 0.2,
        delivery_limit=jitter.choice((3, 20)),
        dead_letters=jitter.random() < 0.2,
        priorities=jitter.random() < 0.3,
        rolling=jitter.random() < 0.2,
    )


def relay_settings(plan: Plan, database_files: DatabaseFiles) -> RelaySettings:
    """The settings of all relays."""
    return RelaySettings(
        **_shared(database_files, PRODUCERS),
        batch_size=plan.batch,
        poll_max_seconds=2,
        publish_timeout_seconds=3,
        publish_max_attempts=3 if plan.dead_letters else None,
        publish_retry_first_seconds=0.5,
        publish_retry_max_seconds=2,
    )


def consumer_settings(plan: Plan, database_files: DatabaseFiles, name: str) -> ConsumerSettings:
    """The settings of the consumer *name*."""
    expires = plan.expires and name == ETL
    return ConsumerSettings(
        **_shared(database_files, CONSUMERS),
        concurrency=2,
        max_retries=2,
        retry_delays=RETRY_SECONDS,
        message_ttl_seconds=LONGER_THAN_RETRIES_SECONDS if expires else None,
        delivery_limit=plan.delivery_limit,
        deduplication_retention_hours=RETENTION_HOURS,
        replay_window_hours=REPLAY_WINDOW_HOURS,
    )


def _shared(database_files: DatabaseFiles, database: str) -> dict[str, Any]:
    return {
        "_env_file": None,
        "database_url": SecretStr(f"sqlite:///{database_files.directory / database}"),
        "broker_url": SecretStr("sqlite:///simulated"),
        "enable_metrics": False,
        "reconnect_max_seconds": 2,
    }

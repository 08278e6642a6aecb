"""
One result of a check.
"""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check has ended."""

    OK = "ok"
    WARNING = "warning"
    """The process works; an operator may want to change something."""
    ERROR = "error"
    """The process does not start, or events do not flow."""
    NOT_CHECKED = "not_checked"
    """It was not possible; the text says why."""


class Check(StrEnum):
    """What was checked: names for programs, in the order in which they are checked."""

    SETTINGS = "settings"
    HANDLERS = "handlers"
    ENCRYPTION = "encryption"
    PROBES = "probes"
    PYTHON_VERSION = "python_version"
    COMPRESSION = "compression"
    DATABASE_VERSION = "database_version"
    DATABASE_TLS = "database_tls"
    DATABASE_CLOCK = "database_clock"
    DATABASE_POOLER = "database_pooler"
    SCHEMA = "schema"
    PLAINTEXT = "plaintext"
    VACUUM = "vacuum"
    BROKER_VERSION = "broker_version"
    BROKER_PRIORITIES = "broker_priorities"
    BROKER_TLS = "broker_tls"
    BROKER_CLOCK = "broker_clock"
    BROKER_ALARMS = "broker_alarms"
    BROKER_DURABILITY = "broker_durability"
    TOPOLOGY = "topology"
    PERMISSIONS = "permissions"
    POLICIES = "policies"
    REQUIRED_QUEUES = "required_queues"
    ROUTING_KEYS = "routing_keys"
    CERTIFICATES = "certificates"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one *check*, in words for an operator."""

    check: Check
    status: Status
    text: str

    @classmethod
    def ok(cls, check: Check, text: str) -> "CheckResult":
        """The check found no problem."""
        return cls(check, Status.OK, text)

    @classmethod
    def warning(cls, check: Check, text: str) -> "CheckResult":
        """The check found something that keeps no process from working."""
        return cls(check, Status.WARNING, text)

    @classmethod
    def error(cls, check: Check, text: str) -> "CheckResult":
        """The check found a problem."""
        return cls(check, Status.ERROR, text)

    @classmethod
    def not_checked(cls, check: Check, what: str, *, because: str) -> "CheckResult":
        """It was not possible to check *what*."""
        return cls(check, Status.NOT_CHECKED, f"{what}, because {because}")

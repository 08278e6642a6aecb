"""
Variables with the prefix MQ_ that no setting has: misspelt, removed, or set by Kubernetes.

Both processes often share one environment, so each knows the names of the other's settings.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from dotenv.parser import parse_stream

PREFIX = "MQ_"

OF_RELAY = frozenset(
    {
        "MQ_BATCH_SIZE",
        "MQ_BATCH_BYTES",
        "MQ_REQUIRED_QUEUES",
        "MQ_WAKEUP",
        "MQ_POLL_MIN_SECONDS",
        "MQ_POLL_MAX_SECONDS",
        "MQ_PUBLISH_TIMEOUT_SECONDS",
        "MQ_PUBLISH_MAX_ATTEMPTS",
        "MQ_PUBLISH_RETRY_FIRST_SECONDS",
        "MQ_PUBLISH_RETRY_MAX_SECONDS",
        "MQ_CLOUDEVENTS",
        "MQ_CLOUDEVENTS_SOURCE",
        "MQ_CLOUDEVENTS_PREFIX",
    }
)
OF_CONSUMER = frozenset(
    {
        "MQ_PROCESSING_QUEUE",
        "MQ_CONCURRENCY",
        "MQ_PREFETCH",
        "MQ_MAX_RETRIES",
        "MQ_RETRY_DELAYS",
        "MQ_RETRY_JITTER",
        "MQ_UNSUPPORTED_WAIT_SECONDS",
        "MQ_MESSAGE_TTL_SECONDS",
        "MQ_DELIVERY_LIMIT",
        "MQ_DEDUPLICATION_RETENTION_HOURS",
        "MQ_REQUEUE_REASONS",
        "MQ_MAX_REQUEUES",
        "MQ_REPLAY_WINDOW_HOURS",
        "MQ_LOCK_TIMEOUT_SECONDS",
    }
)

_IN_URL = "MQ_BROKER_URL has host, port, user, password and virtual host"

REMOVED = {
    "MQ_RETURNED_REASONS": "it is now MQ_REQUEUE_REASONS",
    "MQ_MAX_RETURNS": "it is now MQ_MAX_REQUEUES",
    "MQ_RABBITMQ_URL": "use MQ_BROKER_URL",
    "MQ_DEDUPLICATION_DB_PATH": "use MQ_DATABASE_URL: the records are in the database of the "
    "effects",
    "MQ_RABBITMQ_MANAGEMENT_URL": "use MQ_MANAGEMENT_URL",
    "MQ_FAILED_QUEUE": "remove it: failed messages move to the table dead_letters",
    "MQ_ENABLE_PUBLISHER_CONFIRMS": "remove it: publisher confirms are always on",
    "MQ_URL": _IN_URL,
    "MQ_HOST": _IN_URL,
    "MQ_PORT": _IN_URL,
    "MQ_USER": _IN_URL,
    "MQ_USERNAME": _IN_URL,
    "MQ_PASSWORD": _IN_URL,
    "MQ_VHOST": _IN_URL,
}
"""Names of earlier versions and of other designs, with the remedy."""

_LEAST_LIKENESS = 0.6
_SYNONYMS = {
    "DB": "DATABASE",
    "POSTGRES": "DATABASE",
    "POSTGRESQL": "DATABASE",
    "PG": "DATABASE",
    "AMQP": "BROKER",
    "RABBIT": "BROKER",
    "RABBITMQ": "BROKER",
    "URI": "URL",
    "DSN": "URL",
    "DEDUP": "DEDUPLICATION",
    "TIMEOUT": "TIMEOUT_SECONDS",
}

_IP = r"[0-9a-fA-F.:]+"
_URL = r"(?:tcp|udp|sctp)://\S+"
_NUMBER = r"\d+"
_OF_PORT = r"PORT_\d+_(?:TCP|UDP|SCTP)"

# The variables that Kubernetes sets in each pod for a Service of its namespace, with their values.
_SERVICE_LINKS = [
    (re.compile(rf"MQ_(?:(?P<service>\w+?)_)?{name}"), re.compile(value))
    for name, value in (
        (r"SERVICE_HOST", _IP),
        (r"SERVICE_PORT(?:_\w+)?", _NUMBER),
        (r"PORT", _URL),
        (_OF_PORT, _URL),
        (rf"{_OF_PORT}_PROTO", r"tcp|udp|sctp"),
        (rf"{_OF_PORT}_PORT", _NUMBER),
        (rf"{_OF_PORT}_ADDR", _IP),
    )
]
_REMEDY = "set enableServiceLinks: false in the pod, or rename the Service"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable whose name begins with MQ_, in any letter case; *file* is that of a `.env`."""

    name: str
    value: str | None
    file: str = ""

    @property
    def setting(self) -> str:
        """The name in capitals, in which settings are documented."""
        return self.name.upper()

    @property
    def shown(self) -> str:
        """The name for an error message, with the file that contains it."""
        name = self.name if self.name.isprintable() else ascii(self.name)
        return f"{name} in {self.file}" if self.file else name


@dataclass(frozen=True, slots=True)
class Findings:
    """*problems* by the name of the setting, and *warnings*; a line each, without any value."""

    problems: Mapping[str, str]
    warnings: tuple[str, ...]


def check(known: Iterable[str], *, env_file: Path | None) -> Findings:
    """Find all variables that are none of the *known* settings, and those set twice."""
    names = frozenset(known) | OF_RELAY | OF_CONSUMER
    problems: dict[str, str] = {}
    links: dict[str, list[str]] = {}
    environment = _of_environment()
    from_file, unreadable = _of_file(env_file)
    problems.update(unreadable)
    for variables in (environment, from_file):
        spellings = Counter(name for name, _ in {(each.setting, each.name) for each in variables})
        for each in variables:
            link = None if each.file else _service_of(each)
            if each.setting in names:
                if link is not None and "://" in (each.value or ""):
                    problems[each.setting] = (
                        f"{each.shown}: Kubernetes set this variable for a Service named {link}: "
                        f"{_REMEDY}"
                    )
                elif spellings[each.setting] > 1:
                    problems[each.setting] = (
                        f"{each.setting}: is set twice, in different letter case: remove one"
                    )
                elif each.value is None:
                    problems[each.setting] = f"{each.shown}: has no value: add = and the value"
            elif link is not None:
                links.setdefault(link, []).append(each.shown)
            else:
                problems[each.shown] = f"{each.shown}: {_remedy(each.setting, names)}"
    warnings = [
        f"{', '.join(shown)}: ignored, since Kubernetes set this for a Service named {service}: "
        f"{_REMEDY}"
        for service, shown in links.items()
    ]
    return Findings(problems, tuple(warnings))


def _of_environment() -> list[Variable]:
    return [
        Variable(name, value)
        for name, value in sorted(os.environ.items())
        if name.upper().startswith(PREFIX)
    ]


def _of_file(path: Path | None) -> tuple[list[Variable], dict[str, str]]:
    """The variables in the `.env` at *path*, and its lines about settings that have no form."""
    variables: list[Variable] = []
    problems: dict[str, str] = {}
    try:
        if path is None or not _is_file(path):
            return [], {}
        with path.open(encoding="utf-8-sig") as file:
            for binding in parse_stream(file):
                if binding.error and _is_about_setting(binding.original.string):
                    where = f"{path}, line {binding.original.line}"
                    problems[where] = f"{where}: cannot be read: write NAME=value"
                elif binding.key is not None and binding.key.upper().startswith(PREFIX):
                    variables.append(Variable(binding.key, binding.value, file=str(path)))
    except UnicodeDecodeError:
        return [], {str(path): f"{path}: is not UTF-8 text"}
    except PermissionError:
        return [], {str(path): f"{path}: this user may not read the file"}
    except OSError as error:
        # Those of `_is_file` have no number.
        problem = "cannot be read" if error.errno else str(error)
        return [], {str(path): f"{path}: {problem}"}
    return variables, problems


def _is_file(path: Path) -> bool:
    """
    Return whether *path* is a file; false if it is missing, or a device that hides it.

    Named pipes are read by the settings alone, because each can be read once.
    Raises OSError for a directory, whose settings would be ignored.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise OSError("is a link to a file that does not exist") from None
        return False
    if stat.S_ISDIR(mode):
        raise OSError("is a directory instead of a file")
    return stat.S_ISREG(mode)


def _is_about_setting(line: str) -> bool:
    return line.strip().removeprefix("export ").strip().upper().startswith(PREFIX[:-1])


def _service_of(variable: Variable) -> str | None:
    """Return the name of the Service for which Kubernetes sets such a variable, or None."""
    for name, value in _SERVICE_LINKS:
        found = name.fullmatch(variable.name)
        if found is not None and value.fullmatch(variable.value or ""):
            service = found["service"]
            return "mq" if service is None else f"mq-{service.lower().replace('_', '-')}"
    return None


def _remedy(name: str, names: frozenset[str]) -> str:
    if name in REMOVED:
        return f"there is no such setting: {REMOVED[name]}"
    nearest = max(sorted(names), key=lambda other: _likeness(name, other))
    if _likeness(name, nearest) < _LEAST_LIKENESS:
        return "there is no such setting: remove it, or see docs/reference/settings.md"
    return f"there is no such setting: do you mean {nearest}?"


def _likeness(written: str, known: str) -> float:
    return max(
        SequenceMatcher(None, left, right).ratio()
        for left, right in zip(_spellings(written), _spellings(known), strict=True)
    )


def _spellings(name: str) -> Iterator[str]:
    words = name.removeprefix(PREFIX).split("_")
    yield "_".join(words)
    common = [_SYNONYMS.get(word, word) for word in words]
    yield "_".join(common)
    yield "_".join(sorted(common))

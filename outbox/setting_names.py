"""
Variables with the prefix MQ_ that no setting has: misspelt, removed, or set by Kubernetes.

Both processes often share one environment, so each knows the names of the other's settings.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from outbox import secret_files
from outbox.setting_variables import PREFIX, Variable, of_environment, of_file

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
        "MQ_MONITOR_BACKLOG",
        "MQ_MONITOR_AGE_SECONDS",
        "MQ_MONITOR_DEAD_LETTERS",
        "MQ_MONITOR_QUEUE_MESSAGES",
        "MQ_MONITOR_CONSUMERS",
        "MQ_MONITOR_MEMORY_RATIO",
        "MQ_MONITOR_DISK_FREE_BYTES",
        "MQ_MONITOR_UNSEEN_SECONDS",
    }
)
OF_CONSUMER = frozenset(
    {
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
        "MQ_PARKED_BODY_RETENTION_DAYS",
        "MQ_REPLAY_WINDOW_HOURS",
        "MQ_LOCK_TIMEOUT_SECONDS",
        "MQ_REPLY_QUEUE",
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
class Findings:
    """
    *problems* by the name of the setting, and *warnings*; a line each, without any value.

    *files* has the settings that are read from files of secrets, as errors name them.
    """

    problems: Mapping[str, str]
    warnings: tuple[str, ...]
    files: Mapping[str, str]

    def with_file(self, line: str) -> str:
        """Return *line*, which begins with a setting, with the file that has the setting."""
        setting, colon, problem = line.partition(":")
        return f"{self.files.get(setting, setting)}{colon}{problem}"


def check(known: Iterable[str], *, env_file: Path | None) -> Findings:
    """Find all variables that are none of the *known* settings, and those set twice."""
    names = frozenset(known) | OF_RELAY | OF_CONSUMER
    problems: dict[str, str] = {}
    links: dict[str, list[str]] = {}
    environment = of_environment()
    from_file, unreadable = of_file(env_file)
    problems.update(unreadable)
    secrets = _secrets([*environment, *from_file])
    from_secrets = [Variable(each, "", file=str(secrets.directory)) for each in secrets.names]
    for variables in (environment, from_file, from_secrets):
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
    problems.update(secrets.problems)
    taken = {each.setting for each in (*environment, *from_file)}
    warnings += [
        f"{each.shown}: ignored, since the environment or .env has this setting"
        for each in from_secrets
        if each.setting in taken
    ]
    files = {each.setting: each.shown for each in from_secrets if each.setting not in taken}
    return Findings(problems, tuple(warnings), files)


def _secrets(variables: Iterable[Variable]) -> secret_files.SecretFiles:
    given = [each.value for each in variables if each.setting == secret_files.SETTING]
    return secret_files.find(given[0] if given else None)


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

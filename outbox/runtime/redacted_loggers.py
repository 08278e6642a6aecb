"""
Names of loggers whose records may quote data, and are therefore logged without values.

They quote rows and parameters of statements, whole messages, arguments of calls, or URLs, which
for a FHIR server have the id of a patient.
"""

from collections.abc import Iterable
from pathlib import PurePath

DRIVERS = frozenset(
    {
        "aio_pika",
        "aiormq",
        "aiosqlite",
        "alembic",
        "asyncio",
        "asyncpg",
        "concurrent",
        "pamqp",
        "prometheus_client",
        "pydantic",
        "pydantic_settings",
        "sqlalchemy",
        "uvloop",
        "yarl",
    }
)
"""Libraries of this project."""

CLIENTS = frozenset(
    {
        "aiobotocore",
        "aiohttp",
        "amqp",
        "azure",
        "backoff",  # texts of exceptions
        "boto3",
        "botocore",
        "celery",  # arguments of tasks
        "elastic_transport",
        "elasticsearch",
        "fhirclient",  # ids of patients
        "googleapiclient",
        "grpc",
        "hl7",  # segments and fields
        "httpcore",
        "httpx",
        "kombu",  # bodies
        "opensearch",
        "opensearchpy",
        "pika",
        "psycopg",
        "py",  # py.warnings, to which logging.captureWarnings sends the texts of warnings
        "push_response",  # of redis
        "pydicom",
        "pymongo",
        "pynetdicom",
        "redis",
        "s3transfer",
        "snowflake",  # texts of statements
        "stamina",  # arguments of calls
        "urllib3",
        "websockets",  # frames
        "zeep",  # envelopes of SOAP
    }
)
"""Libraries that applications use."""

LIBRARIES = DRIVERS | CLIENTS

_SITES = ("site-packages", "dist-packages")

_more: set[str] = set()


def add(names: Iterable[str]) -> None:
    """Redact the records of the loggers called *names*, and of their children, as well."""
    _more.update(names)


def is_redacted(logger: str) -> bool:
    """Return whether the name of a *logger*, or the name of one above it, is redacted."""
    if logger.startswith("/"):  # of `getLogger(__file__)`, as in hl7
        logger = package_of(logger)
    if logger.partition(".")[0] in LIBRARIES:
        return True
    parts = logger.split(".")
    return bool(_more) and any(".".join(parts[:end]) in _more for end in range(1, len(parts) + 1))


def package_of(file: str) -> str:
    """Return the name of the installed, or standard, package with the *file*; empty if none is."""
    parts = PurePath(file).parts
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] in _SITES or parts[position].startswith("python3"):
            return parts[position + 1].removesuffix(".py")
    return ""

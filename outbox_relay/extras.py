"""
Packages that only some users install, and the extra of this distribution that brings each of them.

A producer installs `outbox-relay` alone. The commands, each database and RabbitMQ have an extra.
"""

OF_SERVERS = {
    "asyncpg": "postgres",
    "aiosqlite": "sqlite",
    "aio_pika": "rabbitmq",
    "aiormq": "rabbitmq",
    "pamqp": "rabbitmq",
    "redis": "redis",
    "cryptography": "encryption",
    "zstandard": "zstd",
}
"""The extra of a package that only one kind of server needs, by the name of its module."""

OF_COMMANDS = frozenset(
    {
        "alembic",
        "dotenv",
        "greenlet",
        "prometheus_client",
        "pydantic_settings",
        "rich",
        "structlog",
        "typer",
        "yarl",
    }
)
"""Modules that the extras `relay` and `consumer` bring; uvloop is not needed."""


def missing_extra(error: BaseException | None, *, command: str) -> str | None:
    """
    Return the extra that brings the package whose absence is *error*, or is its cause.

    For a package of the processes that is the extra of *command*. None if *error* is another one.
    """
    if not isinstance(error, ImportError):
        return None
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        # SQLAlchemy raises an error of its own for greenlet.
        return missing_extra(error.__cause__, command=command)
    return command if module in OF_COMMANDS else OF_SERVERS.get(module)


def installation(extra: str) -> str:
    """Return the words that tell a user how to install *extra*."""
    return f"needs more packages: pip install 'outbox-relay[{extra}]'"

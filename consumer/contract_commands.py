"""
The commands of a contract: they write the AsyncAPI document of a consumer, or compare it.
"""

from collections.abc import Sequence

from consumer import checks
from consumer.contract import files
from consumer.contract.comparison import Comparison, compare, received
from consumer.contract.document import document
from consumer.contract.service import sent_by, version_of
from consumer.target import start
from outbox.cli import console as commands
from outbox.errors import ConfigurationError


def write(
    target: str,
    *,
    output: str | None,
    events: Sequence[str],
    title: str | None,
    version: str | None,
) -> str:
    """Return the document of the consumer *target*, and write it to the file *output*."""
    settings, consumer = start(target, servers=[])

    async def written() -> str:
        checks.check_handlers(consumer)
        found = document(
            consumer,
            settings,
            title=title,
            version=version or version_of(target),
            sent=sent_by(events),
        )
        if output is not None:
            files.save(found, output)
        return files.text_of(found)

    return commands.once(written)


def compare_with(target: str, contract: str) -> Sequence[str]:
    """
    Compare the consumer *target* with the document in the file *contract*.

    Returns what was not compared; the command fails if a handler cannot read what it allows.
    """
    settings, consumer = start(target, servers=[])

    async def compared() -> Comparison:
        stored = files.load(contract)
        received(stored)
        found = compare(stored, document(consumer, settings, version=""))
        if found.incompatible:
            raise ConfigurationError("\n".join(found.incompatible))
        return found

    return commands.once(compared).uncompared

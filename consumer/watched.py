"""
What `consumer watch` needs: the broker, the audit log and the keys of the settings.
"""

from consumer.settings import ConsumerSettings
from outbox.cli.start import settings as settings_of
from outbox.dead_letters.encrypted_letters import letter_keys
from outbox.runtime import process
from outbox.transports.connect import transport
from outbox.watching.request import WatchSource

ROLE = "consumer watch"
"""The name of the process, on its connections."""


def watch_source() -> WatchSource:
    """
    Return the source of copies for the configured broker.

    Ends the process with exit code 2 if the settings are wrong.
    """
    settings = settings_of(
        ConsumerSettings, process="consumer", warnings="stderr", servers=["broker_url"]
    )
    name = process.name(ROLE)
    return WatchSource(
        name=settings.processing_queue,
        main_exchange=settings.main_exchange,
        transport=lambda: transport(settings, name=name),
        database=lambda: process.database(settings, role=ROLE, lock_timeout=settings.lock_timeout),
        keys=lambda: letter_keys(settings, name=name),
        two_person=settings.two_person,
    )

"""
The commands `relay keys require` and `allow-plaintext`.
"""

from outbox.audit_tables import audit_log
from outbox.cli.console import console, once
from outbox.cli.key_settings import KeySettings, audit_of
from outbox.database.privileges import Rights
from outbox.key_operations import plaintext

_RIGHTS: Rights = {audit_log: ("INSERT",)}


def change(settings: KeySettings, *, refuse: bool, because: str | None, by: str | None) -> None:
    """Let the outbox refuse plaintext, or accept it; raises ConfigurationError."""
    audit = audit_of(because, by)

    async def work() -> None:
        async with settings.opened(_RIGHTS) as engine:
            await (plaintext.refuse if refuse else plaintext.allow)(engine, audit)

    once(work)
    if refuse:
        console.print("the outbox refuses plaintext; set MQ_REQUIRE_ENCRYPTION=true as well")
    else:
        console.print("the outbox accepts plaintext; MQ_REQUIRE_ENCRYPTION may still refuse it")

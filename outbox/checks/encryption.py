"""
Whether the keys of encryption can be used.
"""

import asyncio
import os
import stat
from datetime import UTC, datetime

from outbox.checks.report import Report
from outbox.checks.result import Check, CheckResult
from outbox.encryption_settings import KEYS, EncryptionSettings
from outbox.extras import packages_of


async def check(settings: EncryptionSettings, report: Report, *, name: str) -> None:
    """
    Encrypt a key with the source in MQ_ENCRYPTION_KEYS, and read the tables of a key database.

    Adds nothing if there is no source. A key database shows the process as *name*. Raises
    ConfigurationError and KeysUnavailable.
    """
    if settings.keys is None:
        return
    with packages_of(f"{KEYS}: encryption", extra="encryption"):
        from outbox.encryption import sources  # noqa: PLC0415 - an extra
        from outbox.key_store.opening import opened_keys  # noqa: PLC0415
    async with opened_keys(settings, name=name) as opened:
        if settings.keys.startswith("file:"):
            report.add(*of_mode(sources.file_path(settings.keys).stat().st_mode))
        wrapped = await asyncio.to_thread(opened.keys.wrap, os.urandom(32))
        ring = getattr(opened.keys, "ring", opened.keys)
        current = getattr(ring, "current", None)
        report.add(
            of_key(
                wrapped.key_id,
                active_from=getattr(current, "active_from", None),
                has_subjects=opened.subjects is not None,
                is_required=settings.require_encryption,
                now=datetime.now(UTC),
            )
        )


def of_key(
    key_id: str,
    *,
    active_from: datetime | None,
    has_subjects: bool,
    is_required: bool,
    now: datetime,
) -> CheckResult:
    """Say which key encrypts, since when if that is known, and whether plaintext is refused."""
    since = "" if active_from is None else f", for {max((now - active_from).days, 0)} days"
    persons = "a key database has the keys of persons" if has_subjects else "no keys of persons"
    plaintext = (
        "this process refuses plaintext" if is_required else "this process accepts plaintext"
    )
    text = f"key {key_id} encrypts{since}; {persons}; {plaintext}"
    return CheckResult.ok(Check.ENCRYPTION, text)


def of_mode(mode: int) -> list[CheckResult]:
    """Warn if other users may read the file with keys; mounted secrets are often like that."""
    if not mode & stat.S_IROTH:
        return []
    text = f"{KEYS}: all users of this host may read the file: set its mode to 0600 or 0640"
    return [CheckResult.warning(Check.ENCRYPTION, text)]

"""
Helpers for tests of handlers, and of the whole way from a recorded event to its effects.

    async with running(etl, tables=Base.metadata) as app:
        await app.call("upload.taken", {"size": 3})              # one call of one handler

        await app.record(Event("upload.taken", {"size": 3}))     # the whole way
        await app.drain()
        app.assert_published("upload.measured", payload={"size": 3})

        await app.advance(timedelta(minutes=5))                  # retries and delays

It needs the packages of both processes. A process of a consumer never imports this module, which
is the only one of the package that leads to the relay: a test of the whole way needs both.
"""

import outbox_relay

try:
    from outbox_testing.app import App
    from outbox_testing.drained import Drained, FailedAttempt, Settled, SettledMessage
    from outbox_testing.message import a_message
    from outbox_testing.running import running
except ImportError as error:
    outbox_relay.explain_import_error("consumer", error)
    raise

__all__ = [
    "App",
    "Drained",
    "FailedAttempt",
    "Settled",
    "SettledMessage",
    "a_message",
    "running",
]

"""`python -m relay` is the command `relay`."""

import outbox_relay

outbox_relay.relay()

"""`python -m consumer` is the command `consumer`."""

import outbox_relay

outbox_relay.consumer()

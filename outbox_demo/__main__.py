"""`python -m outbox_demo` is the command `relay demo`."""

import outbox_relay

outbox_relay.demo()

"""
What tests need besides the product: real servers, processes, proxies and consumers under test.

In reading order:

    eventually.py                       waits for a condition; the only module that sleeps
    processes.py, fork_server.py, reaper.py    start processes, and end them with the tests
    servers/                            Postgres and RabbitMQ: given, in containers, or private
    proxy.py, network_conditions.py     a TCP proxy that injects faults of the network
    breakpoints.py, wire_protocols.py   a proxy that stops at an exact message
    builders.py, effects.py, crashing.py, behaviours.py, ordered.py, leasing.py    test consumers
    deployment.py and its subclasses    the product as processes on one database and one broker

It may import the product, and `tests.reliability` only for histories and their checker. Fixtures
are in `tests/conftest.py`. The folder has no command; `make test` runs the tests that use it.
"""

"""
The fault matrix: one test for each row of `docs/reference/fault-matrix.md`, on real servers.

Each test runs producers, relays and consumers as processes, injects the faults of its row, and
checks the history of all events at the end. There are two ways to do that:

    tests/reliability/fault_run.py           relays and two consumers under a random load
    tests/support/checked_deployment.py      one relay and one consumer, for single faults

`test_fault_run.py` tests the harness itself. The docstring of each test begins with its row.
The folder may import `tests.reliability` and `tests.support`. `make test` leaves it out: run it
with `make faults`. Every change has to pass the tests marked `selection`.
"""

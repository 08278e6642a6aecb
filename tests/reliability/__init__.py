"""
What the product does under faults: a history that outside observers write, and its checker.

In reading order:

    history.py, checker.py, guarantees.py, figures.py    records, rules, and counts of a history
    fault_run.py            one run: processes, load, faults, and the check at the end
    producers.py, consumers.py, tables.py                the load and its effects
    roles.py, supervisor.py, proxies.py                  processes, restarts, and connections
    process_faults.py, server_faults.py, fault_schedule.py    faults, and how they are drawn
    wire_recorder.py, sampler.py, leaks.py, leftovers.py, outcomes.py    the observers
    soak.py, report.py      a long run with random faults: `make soak`
    simulation/             the same in virtual time: `python -m tests.reliability.simulation`
    mutation/               deliberate faults of the product that the harness has to catch

It may import the product and `tests.support`. `make faults` runs the tests in `tests/matrix`.
"""

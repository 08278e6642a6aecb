"""
What the project installs: the locks in `requirements/`, and the software bill of materials.

    lock.py                 `make lock`: writes the locks and the bill
    test_locks.py           they agree with pyproject.toml, and with each other
    distributions.py        which distributions an extra installs
    test_wheel.py           the wheel contains the bill, and runs with an extra and no others
    test_audit.py           an audit that has audited nothing fails

They need no registry.
"""

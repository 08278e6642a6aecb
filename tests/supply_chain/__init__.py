"""
What the project installs: the locks in `requirements/`, and the software bill of materials.

    lock.py                 `make lock`: writes the locks and the bill
    test_locks.py           they agree with pyproject.toml, and with each other
    test_wheel.py           the wheel contains the bill
    test_audit.py           an audit that has audited nothing fails

They need no registry.
"""

"""
The tests with other versions of Postgres, whose programs come from packages.

    __main__       `make versions`: runs tests with each version, and prints a table
    installation   the programs of each version, from the locked packages of package.json
    report         what a run of the tests has found

The version that the machine has is tested by `make test`.
"""

"""
Programs of other client libraries, as `docs/how-to/other-clients.md` has them.

    programs.py         takes the programs from the page, and runs them
    installation.py     installs their libraries beside the tests' own, once
    python.in, .txt     libraries for Python; `make lock` writes the lock
    node.in, .txt       Node.js itself, for machines that have none
    package.json        libraries for Node.js, and package-lock.json

None of the libraries is one of the project's.
"""

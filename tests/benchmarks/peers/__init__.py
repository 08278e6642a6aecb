"""
Outbox relays of others, each in an environment of its own, and the same job in C.

    txoutbox.py            txoutbox, from PyPI
    faststream_outbox.py   faststream-outbox, from PyPI
    omni_box.py            omni-box, from PyPI; needs Python 3.12
    publishing.py          the publisher of those whose own does not speak to RabbitMQ
    full_job.c             the whole job with libpq and librabbitmq
    *.in, *.txt            what each environment has; `make lock` writes the locks

A file of a peer runs in the environment of the peer, and imports nothing of the product:

    python -m tests.benchmarks.peers.NAME prepare    create the table as the peer declares it
    python -m tests.benchmarks.peers.NAME run        relay until the process is ended

Both print `ready`: the first when it is done, the second when it waits for rows.
MQ_DATABASE_URL, MQ_BROKER_URL and EXCHANGE say where.
`tests/benchmarks/peer_programs.py` installs and starts them, and fills their tables.

Each is tuned: the settings are the fastest that were found, and the file says what they are.
All of them run on uvloop, and publish persistent, mandatory and confirmed; a returned message is
an error.
"""

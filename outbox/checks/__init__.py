"""
What `relay check` and `consumer check` find out about servers, settings and clocks.

Facts are read by `outbox/database/` and `outbox/transports/`; functions here judge them, and
change nothing. A result is a value that the command lines print.

    result.py        one result, and its status
    report.py        all results of one run, and the error with which it ends
    versions.py      the oldest versions that are supported, and faults of later ones
    compression.py   packages that bodies of some compressions need
    clocks.py        how far two clocks are apart
    certificates.py  certificates that end soon
    database.py      version, clock, TLS and connection pooler of the database
    encryption.py    whether the source of keys can be used
    broker.py        version, alarms, permissions and clock of the broker
    redis.py         how durably Redis stores messages, and what its user may do
    durability.py    what of that a process logs at its start
    permissions.py   what the broker's user may do
    unroutable.py    routing keys that no queue is bound for
"""

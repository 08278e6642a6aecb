"""
The whole product in one thread and in virtual time, with faults at every step of its protocols.

Relays, consumers and the commands on dead letters are the product's own, put together by its own
assemblies. What they talk to is simulated:

    loop.py        an event loop that never waits: when nothing can run, the time jumps
    process.py     a process that can be killed: from then on nothing that it does gets through
    points.py      the named steps of the protocols, and what strikes at them
    database.py    SQLite without threads; connections break, answers are lost
    broker.py      RabbitMQ's semantics in memory; so do its connections and its confirms

A run is a function of its seed. What it finds, it finds again.
"""

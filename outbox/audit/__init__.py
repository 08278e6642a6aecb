"""
The audit log: who did what, and why; rows that can be checked, and the second person.

    log           the actions, and the one statement that adds a row
    chain         the canonical form of a row and its hash: pure, no I/O
    verification  the log against its chain, its head and a pinned head
    listing       rows for people
    approvals     requests that a second person approves, while MQ_TWO_PERSON is set
    pin           the head of the chain, and its event for another system

May import `runtime`, `database` and the files below them; never `dead_letters` or `cli`.
"""

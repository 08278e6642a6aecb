"""
Reading, repairing, replaying and dropping dead letters: no terminal, no broker client.

    selection   the filters that choose dead letters
    store       every statement on the table `dead_letters`
    replay      a run that replays or drops, one batch per transaction
    source      what the relay or a consumer provides: database, destination, duplicates
    encrypted_letters  encrypted bodies, by the keys of an operator
    letter_keys        those keys; imported only if there are any
    queries     lists, single dead letters, counts and pages
    redaction   which parts of a dead letter may be shown to whom
    repair      a new body for a dead letter
    report      log lines and metrics of a running process on its dead letters
    maintenance what that process does from time to time: count them, and purge old ones

May import `audit`, `runtime` and the files below them; never `cli`, and no broker adapter.
"""

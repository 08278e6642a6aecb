"""
Erasing persons: destroying their keys, and what proves it. Commands only; no process imports it.

    subject_file    the names in a file
    key_rows        the states of keys in the key database
    batches         waiting for the batches that began before
    unreadable      the rows whose bodies nothing can read any more
    evidence        events and rows of the audit log
    erasure         the protocol
    readmission     a person has events again
    restored        after a restore of the key database
    opened          the two databases that a command works on
    opening         opening them
    command         one call of a command

The protocol, each step of which may be repeated:

    1. erasing      producers and new batches are refused the keys (committed)
    2. wait         until the batches that began before have ended, with their effects
    3. destroy      the keys become null (committed)
    4. announce     events `subject.erased` and the evidence, in one transaction of the outbox
    5. announced    the rows of the keys say so (committed)
"""

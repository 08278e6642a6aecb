"""
Keys as an operator handles them: which rows need which key, another key for rows, old keys.

    key_usage          every statement that reads which key has encrypted a row
    key_report         what `relay keys status` shows
    key_reading        reads that report
    rewrapping         statements that replace the wrapped key of a row
    rewrap             a run that replaces the wrapped keys of all rows, one batch per transaction
    wrapped_again      one wrapped key by the current key, and how many have one
    subject_rewrap     another wrapped key for keys of persons
    retirement         whether a key may be removed
    key_changes        adding keys to their source, and removing them
    plaintext          whether the outbox accepts plaintext

May import `dead_letters`, for its options, and the packages below it; never `cli`. All modules but
`plaintext` need the extra `encryption`.
"""

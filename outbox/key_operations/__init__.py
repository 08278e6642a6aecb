"""
Keys as an operator handles them: which rows need which key, another key for rows, old keys.

    key_usage          every statement that reads which key has encrypted a row
    key_report         what `relay keys status` shows
    rewrapping         statements that replace the wrapped key of a row
    rewrap             a run that replaces the wrapped keys of all rows, one batch per transaction
    retirement         whether a key may be removed

May import `dead_letters`, for its audit and its options, and the packages below it; never `cli`.
"""

"""
The outbox table as the relay uses it: every SQL statement of the relay is in this folder.

    base               the protocol `OutboxStore`: claim, settle, promote, backlog
    claim_statements   the columns that the statements of a claim read, and their sizes
    unkeyed_claim_statements   rows without a key: their priorities, and the claim in SQLite
    postgres_unkeyed_claim   the claim of rows without a key in Postgres
    keyed_claim_statements   keys with ready rows, and the claim of their first rows
    priority_turns     which priority a claim begins with
    claimed_rows       the rows that a scan claims, read from a result
    measurement        the statement that measures the outbox by state
    settlement         applies verdicts to rows
    isolation          finds the rows that the database refuses to change
    session_keeper     keeps the transaction of a claim alive during a slow publish
    low_water_mark     the id above which a scan starts
    unkeyed_scan       claims rows without an ordering key
    keyed_scan         claims rows with one
    claim              a claim: one scan of each kind
    sql_store          settling, promoting and the backlog, for both databases
    postgres           holds a claim with row locks
    postgres_session   a transaction by statements of the driver itself
    kept_sessions      the sessions that a relay keeps between claims
    postgres_settlement   what settling in Postgres needs of its own
    postgres_notify    LISTEN and NOTIFY, for an idle relay
    sqlite             holds a claim with a lock on a file
    gated              a store that gives no rows while the schema monitor has found a problem
    waiting_keys       routing keys of the first rows, for `relay check`
    plain_rows         those of them that are not encrypted, for `relay check`
    overview           what `relay monitor` reads: dead letters, failing messages, targets
    ordering_secret    reads the secret with which relays hash ordering keys

May import `outbox` and the pure modules of `relay`: row, event_group, measured_rows, verdict,
waves. Only `relay.assembly` imports `postgres`, `postgres_notify` and `sqlite`.
"""

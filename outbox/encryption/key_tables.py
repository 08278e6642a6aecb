"""
The tables of a key database: another database than that of the outbox, with metadata of its own.

A source of keys (MQ_ENCRYPTION_KEYS) reads `key_store` and `encryption_keys`; the keys of persons
(MQ_SUBJECT_KEYS_URL) are in `subject_keys`. One database may be both.
"""

import sqlalchemy as sa

from outbox.database_time import UtcDateTime, database_now

VERSION = 1
"""The version of these tables; a program refuses another one."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def _one_row() -> tuple[sa.Column[int], sa.CheckConstraint]:
    return (
        sa.Column(
            "id", sa.SmallInteger, primary_key=True, autoincrement=False, server_default="1"
        ),
        sa.CheckConstraint("id = 1", name="one_row"),
    )


key_store = sa.Table(
    "key_store",
    metadata,
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest_key", sa.LargeBinary),
    *_one_row(),
)
"""One row: the version of the tables, and the digest key if the database is a source of keys."""

encryption_keys = sa.Table(
    "encryption_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key", sa.LargeBinary),
    sa.Column("active_from", UtcDateTime, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("destroyed_at", UtcDateTime),
)
"""Key-encryption keys, 32 bytes each; `key` is null once the key is destroyed."""

digest_fingerprint = sa.Table(
    "digest_fingerprint",
    metadata,
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    *_one_row(),
)
"""
A digest of nothing with the digest key of the subjects, recorded with the first one.

With another digest key, a producer would make a second key for a person, and an erasure would not
find the first one: both are refused.
"""

ACTIVE, ERASING, ERASED = "active", "erasing", "erased"

subject_keys = sa.Table(
    "subject_keys",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("digest", sa.LargeBinary, unique=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("wrapped", sa.LargeBinary),
    sa.Column("state", sa.Text, nullable=False, server_default=ACTIVE),
    sa.Column("created_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("erased_at", UtcDateTime),
    sa.Column("announced_at", UtcDateTime),
    sa.Column("run", sa.Uuid()),
    sa.CheckConstraint("state IN ('active', 'erasing', 'erased')", name="state"),
    sa.CheckConstraint("(wrapped IS NULL) = (state = 'erased')", name="wrapped"),
    sa.Index(
        "subject_keys_unfinished",
        "id",
        postgresql_where=sa.text("state <> 'active' AND announced_at IS NULL"),
        sqlite_where=sa.text("state <> 'active' AND announced_at IS NULL"),
    ),
)
"""
The key of each person, whose `digest` stands for the name; `wrapped` by the key `key_id`.

    active    encrypts and decrypts
    erasing   is refused to producers and to new batches of consumers, and will be destroyed
    erased    is destroyed: `wrapped` is null. The row stays, so that its messages are recognised

`run` is the erasure in the audit log that changed the row; `announced_at` is when its event and
its evidence were recorded. `digest` is null once the person was readmitted, with another row.
"""

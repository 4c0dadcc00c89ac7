"""The tables, drawn once, and the numbered steps that bring an older database to them.

    files      one row a file, in any state                      usage     what is taken
      id             key                                           owner         key: STORE, or `owner_of(scope)`
      scope                                                        used_bytes    reservations included
      blob           unique                                        files         reserved at least once
      state          0 RESERVED, 1 READY, 2 DELETING
      lapses_at      RESERVED: when the claim ends               leases    one row for each file of a lease
      is_part        takes space, but counts as no file            file_id   ┐ key
      size_bytes     what the row takes from the quota;            lease_id  ┘
                     null until its first reservation              until
      filename       ┐
      purpose        │
      mime_type      │                                           cursors   places in listings whose files are gone
      digest         │ null while RESERVED                         id            key
      created_at     │                                             scope
      last_used_at   │                                             created_at
      expires_at     │ null: never                                 until         when it may be dropped
      ttl_s          ┘ null: `expires_at` is fixed
                                                                 parts     of pending Uploads
    uploads    one row an Upload, until an hour after its expiry   id            key; see `core.uploads`
      id             key; see `core.uploads`                       upload_id
      scope                                                        number        in order of arrival
      file_id        decided at the start                          blob          the trunk, or its own
      blob           of the trunk                                  start         in the blob
      size_bytes     declared                                      size_bytes
      filename                                                     created_at
      purpose
      fixed_s        null: the server's lifetime                 schema_version    one row
      created_at                                                   version
      expires_at
      status         0 PENDING, 1 COMPLETED, 2 CANCELLED         store_key  one row
      trunk_bytes                                                  secret         32 random bytes
      parts          how many
      part_order     null until completed

A lease is a row of its own rather than a time in `files`, so that its end frees the file at once, whoever else holds
one. It may outlive its file's row; it then means nothing and goes when it is released or has lapsed.

Each index over `files` is partial: only rows in the state that is asked for are in it. Queries spell the state as a
literal (`in_state`): a plan that is made before values are bound, as PostgreSQL's may be, can use a partial index only
so.
"""

import secrets
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from mediagate.core.scopes import Scope
from mediagate.core.store_key import KEY_BYTES
from mediagate.index.driver import IndexTooNewError, State

STORE = "store"
"""The owner of the usage row of the whole store."""

METADATA = sa.MetaData()

files = sa.Table(
    "files",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("blob", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("lapses_at", sa.Double),
    sa.Column("is_part", sa.Boolean, nullable=False),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("filename", sa.Text),
    sa.Column("purpose", sa.Text),
    sa.Column("mime_type", sa.Text),
    sa.Column("digest", sa.Text),
    sa.Column("created_at", sa.BigInteger),
    sa.Column("last_used_at", sa.Double),
    sa.Column("expires_at", sa.Double),
    sa.Column("ttl_s", sa.Double),
)

usage = sa.Table(
    "usage",
    METADATA,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("used_bytes", sa.BigInteger, nullable=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    METADATA,
    sa.Column("file_id", sa.Text, primary_key=True),
    sa.Column("lease_id", sa.Text, primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
    sa.Index("leases_by_id", "lease_id"),
    sqlite_with_rowid=False,
)

cursors = sa.Table(
    "cursors",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Index("cursors_by_end", "until"),
    sqlite_with_rowid=False,
)

uploads = sa.Table(
    "uploads",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("file_id", sa.Text, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("fixed_s", sa.Double),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("trunk_bytes", sa.BigInteger, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("part_order", sa.Text),
    sa.Index("uploads_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

parts = sa.Table(
    "parts",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("upload_id", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("parts_by_upload", "upload_id", "number"),
    sqlite_with_rowid=False,
)

schema_version = sa.Table(
    "schema_version", METADATA, sa.Column("version", sa.Integer, primary_key=True)
)

store_key = sa.Table(
    "store_key", METADATA, sa.Column("secret", sa.LargeBinary, primary_key=True, nullable=False)
)


def in_state(state: State) -> sa.ColumnElement[bool]:
    """That a row of `files` is in `state`, in the one spelling that partial indexes match."""
    return files.c.state == sa.literal_column(str(state.value))


def _draw_index(name: str, state: State, *columns: str) -> None:
    where = in_state(state)
    sa.Index(name, *(files.c[c] for c in columns), sqlite_where=where, postgresql_where=where)


_draw_index("files_by_age", State.READY, "scope", "created_at", "id")
_draw_index("files_by_purpose", State.READY, "scope", "purpose", "created_at", "id")
_draw_index("files_by_use", State.READY, "scope", "last_used_at", "id")
_draw_index("files_by_expiry", State.READY, "expires_at")
_draw_index("files_reserved", State.RESERVED, "lapses_at")
_draw_index("files_deleting", State.DELETING, "id")

Step = Callable[[sa.Connection], None]

STEPS: Sequence[Step] = ()
"""`STEPS[n]` brings version n + 1 to n + 2. A new database is created as drawn above and takes none of them."""


def owner_of(scope: Scope) -> str:
    """The owner of a scope's usage row; never `STORE`, whatever the scope is called."""
    return f"scope:{scope}"


def upgrade(connection: sa.Connection, *, steps: Sequence[Step] = STEPS) -> None:
    """Create the tables, or bring an older database to their present form, in the caller's transaction.

    Raises:
        IndexTooNewError: A newer mediagate has written this database.
    """
    latest = 1 + len(steps)
    if not sa.inspect(connection).has_table(schema_version.name):
        METADATA.create_all(connection)
        connection.execute(usage.insert().values(owner=STORE, used_bytes=0, files=0))
        connection.execute(store_key.insert().values(secret=secrets.token_bytes(KEY_BYTES)))
        connection.execute(schema_version.insert().values(version=latest))
        return
    found = connection.execute(sa.select(schema_version.c.version)).scalar_one()
    if found > latest:
        raise IndexTooNewError(found, latest)
    for step in steps[found - 1 :]:
        step(connection)
    if found < latest:
        connection.execute(schema_version.update().values(version=latest))

"""The one database, SQLite or PostgreSQL: its connections, its writers and its tables' registry.

Reads run in a few threads, each on a snapshot. Writes of the whole process pass one thread that runs
many callers' work in one transaction, a savepoint each, and answers them after the commit: each is
durable, and a disk flush is shared by all who waited for it (group commit). What every invocation pays for
passes a process of its own instead while there is much of it (writer_process.py): a thread would share the
interpreter with the event loop.

One writer at a time: the two take turns, as do several servers beside one PostgreSQL. What a caller's work
reads stays true until its commit, and no work need know of others.

A database that is locked, restarted or out of reach is asked again for a few seconds; then callers are told
that it is unavailable, and later calls reach it once it is back. Work that was not committed is run again
meanwhile, so it may run more than once.
"""

from ebbtide.database.database import Database
from ebbtide.database.kinds import postgresql_url
from ebbtide.database.statements import Rows, Statement
from ebbtide.database.tables import metadata

__all__ = ["Database", "Rows", "Statement", "metadata", "postgresql_url"]

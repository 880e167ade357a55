"""Alembic's entry: runs the revisions on the connection that `migrate` gives it."""

from alembic import context

from ebbtide.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()

"""What the table of instances holds."""

from sqlalchemy import Connection, select

from ebbtide.instances.records import Instance, State, instances


def instances_of(connection: Connection, endpoint_id: str) -> list[Instance]:
    """All the endpoint ever had, oldest first."""
    rows = connection.execute(
        select(instances)
        .where(instances.c.endpoint_id == endpoint_id)
        .order_by(instances.c.created_at, instances.c.id)
    )
    return [Instance(**row | {"state": State(row["state"])}) for row in map(dict, rows.mappings())]

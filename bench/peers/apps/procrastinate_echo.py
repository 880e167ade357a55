"""An echo on Procrastinate. It stores no results: the task writes its own into a table beside the queue."""

import asyncio
import os

from procrastinate import App, JobContext, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["POSTGRES_URL"], min_size=4, max_size=16))

CREATE = "CREATE TABLE echoes (job_id bigint PRIMARY KEY, result jsonb NOT NULL)"
STORE = "INSERT INTO echoes (job_id, result) VALUES (%(job_id)s, %(result)s)"
LOOK = "SELECT (SELECT result FROM echoes WHERE job_id = %(job_id)s) AS result"
COUNT = "SELECT count(*) AS stored FROM echoes"

LOOK_AGAIN_S = 0.001


@app.task(pass_context=True)
async def echo(context: JobContext, payload: dict) -> None:
    await app.connector.execute_query_async(STORE, job_id=context.job.id, result=payload)


async def prepare() -> None:
    """Create the tables in an empty database."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async(CREATE)


async def connect() -> None:
    await app.open_async()


async def submit(payload: dict) -> int:
    return await echo.defer_async(payload=payload)


async def result(submitted: int) -> dict:
    while True:
        row = await app.connector.execute_query_one_async(LOOK, job_id=submitted)
        if row["result"] is not None:
            return row["result"]
        await asyncio.sleep(LOOK_AGAIN_S)


async def stored() -> int:
    return (await app.connector.execute_query_one_async(COUNT))["stored"]


if __name__ == "__main__":
    asyncio.run(prepare())

"""PostgreSQL counts what waits by statements, not by rows: each update of a depth leaves its former version
for the next one in the transaction to pass.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

COUNT_INVOCATIONS = (
    """CREATE FUNCTION invocation_arrives() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO invocation_depths AS depths
        SELECT endpoint_id, account, count(*) FILTER (WHERE state = 'queued'),
               count(*) FILTER (WHERE state = 'claimed'),
               count(*) FILTER (WHERE state = 'queued' AND lost_count > 0), 0
          FROM arrived GROUP BY endpoint_id, account
            ON CONFLICT (endpoint_id, account) DO UPDATE
            SET queued = depths.queued + excluded.queued, claimed = depths.claimed + excluded.claimed,
                suspect = depths.suspect + excluded.suspect;
        RETURN NULL;
    END $$""",
    """CREATE FUNCTION invocation_moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE invocation_depths AS depths
           SET queued = depths.queued + moved.queued, claimed = depths.claimed + moved.claimed,
               suspect = depths.suspect + moved.suspect
          FROM (SELECT endpoint_id, account,
                       sum(CASE WHEN state = 'queued' THEN sign ELSE 0 END) AS queued,
                       sum(CASE WHEN state = 'claimed' THEN sign ELSE 0 END) AS claimed,
                       sum(CASE WHEN state = 'queued' AND lost_count > 0 THEN sign ELSE 0 END) AS suspect
                  FROM (SELECT endpoint_id, account, state, lost_count, 1 AS sign FROM after
                         UNION ALL
                        SELECT endpoint_id, account, state, lost_count, -1 FROM before) AS states
                 GROUP BY endpoint_id, account) AS moved
         WHERE depths.endpoint_id = moved.endpoint_id AND depths.account = moved.account
           AND (moved.queued <> 0 OR moved.claimed <> 0 OR moved.suspect <> 0);
        RETURN NULL;
    END $$""",
    """CREATE FUNCTION invocation_goes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE invocation_depths AS depths
           SET queued = depths.queued - gone.queued, claimed = depths.claimed - gone.claimed,
               suspect = depths.suspect - gone.suspect
          FROM (SELECT endpoint_id, account, count(*) FILTER (WHERE state = 'queued') AS queued,
                       count(*) FILTER (WHERE state = 'claimed') AS claimed,
                       count(*) FILTER (WHERE state = 'queued' AND lost_count > 0) AS suspect
                  FROM deleted GROUP BY endpoint_id, account) AS gone
         WHERE depths.endpoint_id = gone.endpoint_id AND depths.account = gone.account;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER invocation_arrives AFTER INSERT ON invocations
            REFERENCING NEW TABLE AS arrived
            FOR EACH STATEMENT EXECUTE FUNCTION invocation_arrives()""",
    """CREATE TRIGGER invocation_moves AFTER UPDATE ON invocations
            REFERENCING OLD TABLE AS before NEW TABLE AS after
            FOR EACH STATEMENT EXECUTE FUNCTION invocation_moves()""",
    """CREATE TRIGGER invocation_goes AFTER DELETE ON invocations
            REFERENCING OLD TABLE AS deleted
            FOR EACH STATEMENT EXECUTE FUNCTION invocation_goes()""",
)


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for name in ("arrives", "moves", "goes"):
        op.execute(f"DROP TRIGGER invocation_{name} ON invocations")
        op.execute(f"DROP FUNCTION invocation_{name}()")
    for statement in COUNT_INVOCATIONS:
        op.execute(statement)

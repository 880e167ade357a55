"""What the queue keeps: its tables, the states of an invocation and the triggers that count backlogs."""

from sqlalchemy import DDL, Column, Float, Index, Integer, LargeBinary, String, Table, event, text

from ebbtide.database import metadata

MOVES = {
    "queued": {"claimed", "expired", "cancelled"},
    # Back to queued when the lease runs out, or is handed back by an agent that cannot go on.
    "claimed": {"queued", "succeeded", "failed", "cancelled"},
    "succeeded": set(),
    "failed": set(),
    "expired": set(),
    "cancelled": set(),
}
"""State -> the states it may move to. An invocation in a state without moves has its outcome."""

invocations = Table(
    "invocations",
    metadata,
    # Time-ordered: the order of ids is that of acceptance.
    Column("id", String, primary_key=True),
    Column("inference_id", String, nullable=False),
    Column("account", String, nullable=False),
    Column("endpoint_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("timeout_s", Integer, nullable=False),
    Column("input_uri", String),
    Column("content_type", String),
    Column("accept", String),
    Column("custom_attributes", String),
    Column("output_uri", String, nullable=False),
    Column("failure_uri", String),
    # What the request comes to, where its endpoint deduplicates.
    Column("digest", String),
    Column("redriven_from", String),
    # The fence: grows with each claim and never falls, so a late agent's count is not its successor's.
    Column("claim_count", Integer, nullable=False),
    # Claims that ended with a dead model server or agent: too many, and the request is taken for poisonous.
    Column("lost_count", Integer, nullable=False),
    Column("lease_until", Float),
    Column("instance_id", String),
    Column("claimed_at", Float),
    # The last claim's phases: payload opened, sent to the model server, answered by it.
    Column("opened_at", Float),
    Column("sent_at", Float),
    Column("answered_at", Float),
    Column("finished_at", Float),
    Column("failure_reason", String),
    # Last, since it is large: SQLite reads the columns before it without it. Gone with success.
    Column("body", LargeBinary),
)
_QUEUED = text("state = 'queued'")
_SUSPECT = text("state = 'queued' AND lost_count > 0")
_NAMED = text("inference_id <> id")
_DIGESTED = text("digest IS NOT NULL")
Index(
    "invocations_by_turn",
    invocations.c.endpoint_id,
    invocations.c.account,
    invocations.c.priority.desc(),
    invocations.c.accepted_at,
    sqlite_where=_QUEUED,
    postgresql_where=_QUEUED,
)
Index("invocations_by_state", invocations.c.endpoint_id, invocations.c.state, invocations.c.accepted_at)
Index(
    "invocations_suspect",
    invocations.c.endpoint_id,
    invocations.c.accepted_at,
    sqlite_where=_SUSPECT,
    postgresql_where=_SUSPECT,
)
Index("invocations_expiring", invocations.c.expires_at, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
Index(
    "invocations_by_inference_id",
    invocations.c.inference_id,
    sqlite_where=_NAMED,
    postgresql_where=_NAMED,
)
Index(
    "invocations_by_digest",
    invocations.c.endpoint_id,
    invocations.c.digest,
    sqlite_where=_DIGESTED,
    postgresql_where=_DIGESTED,
)

tags = Table(
    "invocation_tags",
    metadata,
    Column("invocation_id", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
    Index("invocation_tags_by_value", "key", "value", "invocation_id"),
)

attempts = Table(
    "invocation_attempts",
    metadata,
    Column("invocation_id", String, primary_key=True),
    Column("claim_count", Integer, primary_key=True),
    Column("instance_id", String),
    Column("claimed_at", Float),
    Column("ended_at", Float, nullable=False),
    Column("reason", String, nullable=False),
)
"""Claims that ended without an outcome, and why. The last claim is the invocation's own row."""

depths = Table(
    "invocation_depths",
    metadata,
    Column("endpoint_id", String, primary_key=True),
    Column("account", String, primary_key=True),
    Column("queued", Integer, nullable=False),
    Column("claimed", Integer, nullable=False),
    Column("suspect", Integer, nullable=False),
    # When the account was last served, in the endpoint's virtual time (fairness.py).
    Column("turn", Float, nullable=False),
)
"""How many invocations of an endpoint each account has queued (suspects among them) and claimed, kept by
triggers: the scaler asks every second, and counting a backlog of a million rows each time would cost more
than the work itself."""

TRIGGERS = {
    "sqlite": (
        """CREATE TRIGGER invocation_arrives AFTER INSERT ON invocations BEGIN
        INSERT INTO invocation_depths
        VALUES (NEW.endpoint_id, NEW.account, NEW.state = 'queued', NEW.state = 'claimed',
                NEW.state = 'queued' AND NEW.lost_count > 0, 0)
            ON CONFLICT (endpoint_id, account) DO UPDATE
            SET queued = queued + excluded.queued, claimed = claimed + excluded.claimed,
                suspect = suspect + excluded.suspect;
    END""",
        """CREATE TRIGGER invocation_moves AFTER UPDATE OF state ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued + (NEW.state = 'queued') - (OLD.state = 'queued'),
               claimed = claimed + (NEW.state = 'claimed') - (OLD.state = 'claimed'),
               suspect = suspect + (NEW.state = 'queued' AND NEW.lost_count > 0)
                                 - (OLD.state = 'queued' AND OLD.lost_count > 0)
         WHERE endpoint_id = NEW.endpoint_id AND account = NEW.account;
    END""",
        """CREATE TRIGGER invocation_goes AFTER DELETE ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued - (OLD.state = 'queued'), claimed = claimed - (OLD.state = 'claimed'),
               suspect = suspect - (OLD.state = 'queued' AND OLD.lost_count > 0)
         WHERE endpoint_id = OLD.endpoint_id AND account = OLD.account;
    END""",
    ),
    # A statement's rows together: each update of a depth leaves its former version for the next one to pass.
    "postgresql": (
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
    ),
}
for _dialect, _statements in TRIGGERS.items():
    for _statement in _statements:
        event.listen(
            invocations,
            "after_create",
            DDL(_statement).execute_if(dialect=_dialect),  # type: ignore[no-untyped-call]
        )

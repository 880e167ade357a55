"""Many callers' work in one transaction, a savepoint each: the one place where anything is written."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ebbtide.database.kinds import Kind
from ebbtide.errors import Unavailable, Unconfirmed

T = TypeVar("T")

PATIENCE_S = 5.0
"""How long after it was asked for a read or a write is tried again, while the database cannot be used."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
"""Between such tries; doubled from one to the next."""

MAX_GROUP = 256
"""Most works in one transaction: bounds how long the first waits for the last."""

Work = Callable[[Connection], Any]
"""What a caller wants done. It changes nothing but the database, for it may run more than once."""

Outcome = tuple[Any, BaseException | None]
"""What a work returned, or what it raised."""


class Writer:
    """A connection that writes. Used by one thread at a time."""

    def __init__(self, kind: Kind, on_turn: Callable[[], None] | None = None) -> None:
        """on_turn: called when a transaction may begin; what it raises ends everything.

        Raises SQLAlchemy's DatabaseError when the database cannot be opened or is none.
        """
        self._kind = kind
        self._on_turn = on_turn
        # Opened here, so that a database which cannot be used is told of at once.
        self._connection: Connection | None = kind.open_writer()

    def carry_out(self, works: Sequence[Work], asked_at: float) -> list[Outcome]:
        """Run the works in one transaction, again while it could not be committed; an outcome each.

        asked_at: when the first was asked for, by the monotonic clock.
        """
        try:
            return patiently(self._kind, lambda: self._commit(works), asked_at)
        except Exception as error:  # noqa: BLE001 - the begin or the commit: nobody's work stands
            return [(None, error)] * len(works)

    def close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None

    def _commit(self, works: Sequence[Work]) -> list[Outcome]:
        if self._connection is None:
            self._connection = self._kind.open_writer()
        with self._kind.turn():
            try:
                return self._transact(self._connection, works)
            except BaseException:
                # Whatever state it is in, the next group must not inherit it, nor other writers wait for it.
                self.close()
                raise

    def _transact(self, connection: Connection, works: Sequence[Work]) -> list[Outcome]:
        transaction = connection.begin()
        if self._on_turn is not None:
            self._on_turn()
        outcomes = _run_all(connection, works, self._kind)
        if len(outcomes) == 1 and outcomes[0][1] is not None:
            transaction.rollback()
            return outcomes
        self._kind.check_before_commit(connection)
        try:
            transaction.commit()
        except DBAPIError as error:
            if self._kind.is_lost(connection):
                raise Unconfirmed(
                    "The database was lost during the commit, which was done or was not: "
                    f"{_one_line(error.orig)}"
                ) from error
            raise
        return outcomes


def answer(caller: "asyncio.Future[Any]", outcome: Outcome) -> None:
    """Tell a caller what became of its work, unless it has given up. On the caller's event loop."""
    result, error = outcome
    if caller.cancelled():
        return
    if error is None:
        caller.set_result(result)
    else:
        caller.set_exception(error)


def patiently(kind: Kind, attempt: Callable[[], T], asked_at: float) -> T:
    """Try until it succeeds, fails for good, or the caller has waited for PATIENCE_S.

    Raises Unavailable in the last case, and what `attempt` raises for good.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except Exception as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if not kind.may_pass(cause):
                raise
            if time.monotonic() + pause_s - asked_at > PATIENCE_S:
                raise Unavailable(f"The database cannot be used now: {_one_line(cause)}") from error
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _run_all(connection: Connection, works: Sequence[Work], kind: Kind) -> list[Outcome]:
    """Run the works in order; an outcome each. One that is alone is undone with its transaction."""
    if len(works) == 1:
        return [_run(connection, works[0], kind)]
    outcomes = []
    # Straight to the driver: SQLAlchemy's nested transactions cost more than most of the work here.
    execute = kind.executor(connection)
    for work in works:
        execute("SAVEPOINT work")
        outcome = _run(connection, work, kind)
        if outcome[1] is not None:
            execute("ROLLBACK TO work")
        execute("RELEASE work")
        outcomes.append(outcome)
    return outcomes


def _run(connection: Connection, work: Work, kind: Kind) -> Outcome:
    """Raises what befell the whole transaction; what the work itself raises is its outcome."""
    try:
        return work(connection), None
    except Exception as error:
        if kind.may_pass(error.orig if isinstance(error, DBAPIError) else error):
            raise
        return None, error


def _one_line(error: object) -> str:
    return " ".join(str(error).split())

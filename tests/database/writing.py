"""Works that a process can be given: functions of a module."""

import logging
import os
import threading

from sqlalchemy import Connection, text

from ebbtide.errors import ServiceError


def put(connection: Connection, n: int) -> int:
    """Insert a row; returns the process that did."""
    connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})
    return os.getpid()


def put_next(connection: Connection) -> int:
    """Insert the number that follows the highest; returns the process that did."""
    highest = connection.execute(text("SELECT max(n) FROM t")).scalar()
    return put(connection, (highest or 0) + 1)


class Refused(ServiceError):
    """An error with parameters of its own."""

    code = "Refused"

    def __init__(self, n: int) -> None:
        super().__init__(f"{n} is refused", members={"N": n})


def say(connection: Connection, words: str) -> None:
    logging.getLogger("ebbtide.tests").warning(words)


def put_and_refuse(connection: Connection, n: int) -> None:
    put(connection, n)
    raise Refused(n)


class Locked(Exception):
    """An error that no process can hand to another."""

    def __init__(self, lock: object) -> None:
        super().__init__(lock)


def fail(connection: Connection) -> None:
    raise Locked(threading.Lock())

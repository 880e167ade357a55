"""How far a model server has come, for the agent that started it: one small JSON file."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ebbtide.runtime.errors import LoadFailure, reason

logger = logging.getLogger(__name__)

Phase = Literal["importing", "preparing", "loading", "ready", "failed"]


class StatusFile:
    """`{"phase", "reason", "timings_s", "concurrency", "engine"}`: the timings are of each finished phase,
    of `spawning` before the first, and of `answering` the first request. The engine is as it describes
    itself, null for what has none.
    """

    def __init__(
        self, path: Path, *, concurrency: int | None = None, spawned_at: float | None = None
    ) -> None:
        """spawned_at: when this process was asked for, by the machine's monotonic clock."""
        self._path = path
        self._spawned_at = spawned_at
        self._concurrency = concurrency
        self._engine: Mapping[str, Any] | None = None
        self._timings_s: dict[str, float] = {}
        self._phase: Phase | None = None
        self._entered_at = time.monotonic()

    def fail(self, error: BaseException) -> None:
        """Record that the model cannot be served, and log it, with the trace if user code raised it."""
        self.enter("failed", reason=reason(error))
        trace = None if isinstance(error, LoadFailure) else error
        logger.error("The model cannot be served: %s", reason(error), exc_info=trace)

    def describe(self, engine: Mapping[str, Any]) -> None:
        """Record what the model is computed with, from the next phase on."""
        self._engine = engine

    def answered_first(self, taken_s: float) -> None:
        """Record how long the first request took, which finds nothing warmed up."""
        self._timings_s["answering"] = round(taken_s, 4)
        self._write(None)

    def enter(self, phase: Phase, *, reason: str | None = None, at: float | None = None) -> None:
        """Record a new phase, entered now unless `at` is an earlier time of the monotonic clock."""
        now = time.monotonic() if at is None else at
        if self._phase is not None:
            self._timings_s[self._phase] = round(now - self._entered_at, 4)
        elif self._spawned_at is not None:
            self._timings_s["spawning"] = round(now - self._spawned_at, 4)
        self._phase, self._entered_at = phase, now
        self._write(reason)

    def _write(self, reason: str | None) -> None:
        """Readers see the old file or the new one, never half of either."""
        status = {
            "phase": self._phase,
            "reason": reason,
            "timings_s": self._timings_s,
            "concurrency": self._concurrency,
            "engine": self._engine,
        }
        unfinished = self._path.with_name(self._path.name + ".new")
        try:
            unfinished.write_text(json.dumps(status))
            unfinished.rename(self._path)
        except OSError as error:  # on a full disk: the model may need none of it
            logger.warning("The status cannot be written: %s", error)

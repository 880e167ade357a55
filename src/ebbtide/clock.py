"""The time by which everything here is decided and recorded: seconds since the epoch, never jumping.

A machine's wall clock is set by people and by NTP, forwards and backwards. Leases, time limits and back-offs
that followed it would lapse at once, or never. This clock starts at the wall clock's time and goes on at the
pace of one that nobody sets; what the wall clock differs by, it makes up for slowly.
"""

import logging
import threading
import time

log = logging.getLogger(__name__)

SLEW = 0.1
"""Most s per s by which the clock is quicker or slower than real time, to come back to the wall clock."""

JUMP_S = 5.0
"""A difference that is told of in the log."""

# Goes on while a laptop sleeps, where the system has such a clock.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Follows a wall clock without its jumps. Times in s."""

    def __init__(self, *, wall: float, steady: float) -> None:
        self._shown = wall
        self._steady = steady
        self._told = False

    def read(self, *, wall: float, steady: float) -> float:
        """The time, from what both clocks show now; never less than what was read before."""
        elapsed = max(0.0, steady - self._steady)
        difference = wall - (self._shown + elapsed)
        correction = max(-SLEW * elapsed, min(SLEW * elapsed, difference))
        self._shown += elapsed + correction
        self._steady = max(self._steady, steady)
        jumped = abs(difference) > JUMP_S
        if jumped and not self._told:
            log.warning(
                "The wall clock jumped by %.0f s; queue times and leases go on as before, and the times "
                "recorded come back to it by %g s a second",
                difference,
                SLEW,
            )
        self._told = jumped
        return self._shown


_clock = Clock(wall=time.time(), steady=time.clock_gettime(_STEADY))
_reading = threading.Lock()


def now() -> float:
    """The time of this process's clock."""
    with _reading:
        return _clock.read(wall=time.time(), steady=time.clock_gettime(_STEADY))

"""The time by which everything here is decided and recorded: seconds since the epoch, never jumping.

A machine's wall clock is set by people and by NTP, forwards and backwards. Leases, time limits and back-offs
that followed it would lapse at once, or never. This clock starts at the wall clock's time and goes on at the
pace of one that nobody sets; what the wall clock differs by, it makes up for slowly.

A server that is started again goes on with the time of the one before it, unless the machine was started in
between: else what was recorded while the wall clock was wrong would be due in days, or long ago.
"""

import json
import logging
import threading
import time
from pathlib import Path

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

    @property
    def lead(self) -> float:
        """What it shows more than the steady clock does."""
        return self._shown - self._steady

    def follow(self, lead: float) -> None:
        """Go on from where another clock was, by its lead over the same steady clock."""
        self._shown = self._steady + lead

    def read(self, *, wall: float, steady: float) -> float:
        """The time, from what both clocks show now; never less than what was read before."""
        elapsed = steady - self._steady
        if elapsed > 0.0:
            self._steady = steady
        else:
            elapsed = 0.0
        difference = wall - (self._shown + elapsed)
        # Several times for every invocation: max() and min() would take longer than all the rest.
        correction, most = difference, SLEW * elapsed
        if correction > most:
            correction = most
        elif correction < -most:
            correction = -most
        self._shown += elapsed + correction
        jumped = not -JUMP_S <= difference <= JUMP_S
        if jumped and not self._told:
            log.warning(
                "The wall clock jumped by %.0f s; queue times and leases go on as before, and the times "
                "recorded come back to it by %g s a second",
                difference,
                SLEW,
            )
        self._told = jumped
        return self._shown


FILE = "clock.json"

_BOOT = Path("/proc/sys/kernel/random/boot_id")

_clock = Clock(wall=time.time(), steady=time.clock_gettime(_STEADY))
_reading = threading.Lock()


def now() -> float:
    """The time of this process's clock."""
    with _reading:
        return _clock.read(wall=time.time(), steady=time.clock_gettime(_STEADY))


def resume(data: Path) -> None:
    """Go on with the time of the server that last kept its own here, if the machine has run since then."""
    try:
        kept = json.loads((data / FILE).read_text())
        boot, lead = kept["boot"], float(kept["lead"])
        if boot != _BOOT.read_text():
            return
    except (OSError, ValueError, KeyError, TypeError):
        return
    with _reading:
        ahead = _clock.lead
        _clock.follow(lead)
        behind = ahead - _clock.lead
    if abs(behind) > JUMP_S:
        log.warning(
            "The wall clock is %.0f s off the time that this server's queue was kept by, and is followed by "
            "%g s a second; to take its time at once, remove %s and start again",
            behind,
            SLEW,
            data / FILE,
        )


def keep(data: Path) -> None:
    """Leave in this directory what `resume` needs. What cannot be written is not: the last still holds."""
    unfinished = data / f"{FILE}.new"
    try:
        unfinished.write_text(json.dumps({"boot": _BOOT.read_text(), "lead": _clock.lead}))
        unfinished.replace(data / FILE)
    except OSError as error:
        log.info("The time was not kept: %s", error)

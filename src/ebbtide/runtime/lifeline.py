"""Dying with the process that started this one, however that ended."""

import ctypes
import os
import signal
import stat
import threading

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Source: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_at_end_of_input() -> None:
    """End this process at once when standard input ends, if that is a pipe: its other end is our parent's.

    It covers what the kernel's signal does not: a parent that died before `die_with_parent` was called.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()

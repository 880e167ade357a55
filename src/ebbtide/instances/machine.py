"""This machine, as the kernel shows it: cores, memory, GPUs, and what a process takes of them. Linux only."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes: of the machine, or of the control group that bounds us to less."""

    total_bytes: int
    available_bytes: int


def memory() -> Memory:
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _cgroup_bounds():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def cores() -> int:
    """CPUs this process may use at once, a container's quota respected."""
    count = len(os.sched_getaffinity(0))
    for group in _cgroups():
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            count = min(count, max(1, int(quota) // int(period)))
    return count


def gpus() -> int:
    """NVIDIA devices that we may open."""
    return sum(1 for device in Path("/dev").glob("nvidia[0-9]*") if os.access(device, os.R_OK | os.W_OK))


def process_memory(pid: int) -> tuple[int, int]:
    """Resident memory of the process and its descendants now, and the sum of their peaks, in bytes."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    resident = peak = 0
    for member in members:
        with suppress(OSError):  # it ended meanwhile
            status = Path(f"/proc/{member.pid}/status").read_text()
            resident += _kilobytes(status, "VmRSS:")
            peak += _kilobytes(status, "VmHWM:")
    return resident, peak


def _kilobytes(status: str, member: str) -> int:
    # A process that has ended but was not waited for has none.
    line = next((line for line in status.splitlines() if line.startswith(member)), None)
    return 0 if line is None else int(line.split()[1]) * 1024


def _cgroups() -> list[Path]:
    """Our control group, and the root of those we see: inside a container that is its own."""
    own = next(
        (line[len("0::/") :] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::/")), ""
    )
    return [CGROUPS, CGROUPS / own] if own else [CGROUPS]


def _cgroup_bounds() -> list[tuple[int, int]]:
    """(limit, use) of each control group that has a limit; the page cache it could drop is not use."""
    bounds = []
    version_1 = (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    version_2 = [(group, "memory.max", "memory.current", "inactive_file") for group in _cgroups()]
    for group, limit, used, droppable in (version_1, *version_2):
        with suppress(OSError, ValueError):  # "max": no limit
            statistics = dict(line.split() for line in _lines(group / "memory.stat"))
            use = int((group / used).read_text()) - int(statistics.get(droppable, 0))
            bounds.append((int((group / limit).read_text()), use))
    return bounds


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

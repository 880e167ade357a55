"""How much memory this process may still take, on the machine or on its GPU."""

import ctypes
import resource
from pathlib import Path

from ebbtide.runtime.errors import LoadFailure


def free_bytes(device: str = "cpu") -> int:
    """What can be had now. device: cpu or cuda, the first that is visible. Raises LoadFailure without a
    driver."""
    return _gpu_free_bytes() if device == "cuda" else min(_machine_free(), _allowed(), _group_free())


def _machine_free() -> int:
    return _kibibytes("/proc/meminfo", "MemAvailable")


def _allowed() -> int:
    """What RLIMIT_DATA leaves: the bound that the instance was started with."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit - _kibibytes("/proc/self/status", "VmData")


def _group_free() -> int:
    """What the control group leaves, as containers are bounded."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:  # the root group, and older kernels, have no such bound
        return 1 << 62
    return 1 << 62 if limit == "max" else int(limit) - used


def _kibibytes(path: str, name: str) -> int:
    (line,) = (line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def _gpu_free_bytes() -> int:
    # The driver's own library: it knows what CUDA_VISIBLE_DEVICES shows, and needs no package.
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise LoadFailure(f"The GPU's driver is not there: {error}") from error
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    calls = (
        (driver.cuInit, 0),
        (driver.cuDevicePrimaryCtxRetain, ctypes.byref(context), 0),
        (driver.cuCtxPushCurrent_v2, context),
        (driver.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total)),
        (driver.cuCtxPopCurrent_v2, ctypes.byref(context)),
    )
    for call, *arguments in calls:
        if code := call(*arguments):
            raise LoadFailure(f"The GPU's driver answers {call.__name__} with error {code}")
    return free.value

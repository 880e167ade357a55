"""What the machine could do at most, on the cores that the bench uses: memory read, products by type."""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bench import bases

THREADS = 2
READ_BYTES = 512 << 20  # of each thread: far beyond the caches
RUNS = 5
ROWS = 512


@dataclass(frozen=True, slots=True)
class Roofline:
    """Bytes read a second; operations a second of float32 and of int8 products of 512 rows."""

    read_bytes_s: float
    float32_s: float
    int8_s: float


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    found = roofline()
    yield f"roofline: memory read, {THREADS} threads", f"{found.read_bytes_s / 1e9:.0f} GB/s"
    yield f"roofline: float32 products, {ROWS} rows (numpy)", f"{found.float32_s / 1e9:.0f} GFLOP/s"
    yield f"roofline: int8 products, {ROWS} rows (ONNX Runtime)", f"{found.int8_s / 1e9:.0f} GOP/s"


def roofline() -> Roofline:
    parts = [np.ones(READ_BYTES // 4, np.float32) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        read_s = _median_s(lambda: list(threads.map(lambda part: part @ part, parts)))
    inputs, outputs = 1024, 4096
    x = np.ones((ROWS, inputs), np.float32)
    weights = np.ones((inputs, outputs), np.float32)
    float32_s = _median_s(lambda: x @ weights)
    packed = [np.ones((outputs, inputs), np.int8)] * 8
    _, pack = bases.BASES["ONNX Runtime"]
    product = pack(packed)
    int8_s = _median_s(lambda: product(x)) / len(packed)
    operations = 2 * ROWS * inputs * outputs
    return Roofline(THREADS * READ_BYTES / read_s, operations / float32_s, operations / int8_s)


def _median_s(act: Callable[[], object]) -> float:
    act()
    taken_s = []
    for _ in range(RUNS):
        began_at = time.perf_counter()
        act()
        taken_s.append(time.perf_counter() - began_at)
    return statistics.median(taken_s)


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")

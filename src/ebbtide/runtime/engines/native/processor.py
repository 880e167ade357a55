"""What packed weights depend on, and whether 8-bit products are exact here."""

import platform
from functools import cache
from pathlib import Path

import onnxruntime

_PACKING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions by which ONNX Runtime chooses its products, and so how weights are packed."""

_EXACT = {"avx_vnni", "avx512_vnni", "asimddp", "i8mm"}
"""With one of these, sums of 8-bit products are kept in 32 bits; AVX2 alone saturates at 16."""


@cache
def processor() -> str:
    """The machine and ONNX Runtime's release, as far as packed weights depend on them."""
    return " ".join([platform.machine(), *sorted(_flags()), f"onnxruntime-{onnxruntime.__version__}"])


def has_exact_int8_products() -> bool:
    return bool(_flags() & _EXACT)


@cache
def _flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split()) & frozenset(_PACKING)
    return frozenset()

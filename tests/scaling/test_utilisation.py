"""What instances are said to use of processor and memory."""

import os
import subprocess
import sys
import time

import pytest

from ebbtide.identifiers import ACCOUNT
from ebbtide.scaling.utilisation import Meter, Running


def running(pid: int) -> Running:
    return Running("id", ACCOUNT, "summaries", "main", pid)


def values(points) -> dict[str, float]:
    return {point.name: point.value for point in points}


def test_an_instance_is_measured_under_its_endpoint_and_variant():
    points = Meter().points([running(os.getpid())], time.time())

    assert {point.name for point in points} == {"CPUUtilization", "MemoryUtilization"}
    assert {point.namespace for point in points} == {"/aws/sagemaker/Endpoints"}
    assert {point.dimensions for point in points} == {
        (("EndpointName", "summaries"), ("VariantName", "main"))
    }
    assert 0 < values(points)["MemoryUtilization"] < 100


def test_a_core_in_full_use_is_a_hundred_percent():
    meter, now = Meter(), time.time()
    meter.points([running(os.getpid())], now)
    used_s = -time.process_time()
    while used_s + time.process_time() < 0.2:
        pass
    used_s += time.process_time()

    points = meter.points([running(os.getpid())], now + used_s)

    assert values(points)["CPUUtilization"] == pytest.approx(100, rel=0.3)


def test_an_instance_that_has_ended_is_left_out():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert Meter().points([running(ended.pid)], time.time()) == []

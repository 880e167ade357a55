"""The clock that does not jump: tables of what the wall clock does and what is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide import clock
from ebbtide.clock import SLEW, Clock

HOUR_S = 3600.0


def test_it_shows_the_wall_clock_while_that_goes_right():
    clock = Clock(wall=1000.0, steady=5.0)

    assert clock.read(wall=1060.0, steady=65.0) == 1060.0


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_jump_of_the_wall_clock_moves_it_by_a_tenth_of_the_time_that_passes(jump_s):
    clock = Clock(wall=1000.0, steady=0.0)

    shown = clock.read(wall=1010.0 + jump_s, steady=10.0)

    assert shown == pytest.approx(1010.0 + (1.0 if jump_s > 0 else -1.0))


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_in_the_end_it_is_back_at_the_wall_clock(jump_s):
    clock = Clock(wall=1000.0, steady=0.0)

    shown = [clock.read(wall=1000.0 + jump_s + n * 60, steady=n * 60.0) for n in range(1, 602)]

    assert shown[-1] == pytest.approx(1000.0 + jump_s + 601 * 60)


def test_a_jump_is_told_of_once(caplog):
    clock = Clock(wall=1000.0, steady=0.0)

    for n in range(1, 10):
        clock.read(wall=1000.0 + HOUR_S + n, steady=float(n))

    assert [record.message.split(";")[0] for record in caplog.records] == ["The wall clock jumped by 3600 s"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data directory, and a clock of the test's own in the place of this process's."""
    monkeypatch.setattr(clock, "_clock", Clock(wall=1000.0, steady=5.0))
    clock.keep(tmp_path)
    return tmp_path


def restart(monkeypatch, *, wall, steady):
    monkeypatch.setattr(clock, "_clock", Clock(wall=wall, steady=steady))


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_server_started_again_while_the_wall_clock_is_wrong_goes_on_with_its_time(
    data, monkeypatch, jump_s
):
    restart(monkeypatch, wall=1002.0 + jump_s, steady=7.0)

    clock.resume(data)

    assert clock._clock.read(wall=1002.0 + jump_s, steady=7.0) == 1002.0


def test_after_the_machine_was_started_again_the_wall_clock_is_right(data, monkeypatch, tmp_path):
    other_boot = tmp_path / "boot_id"
    other_boot.write_text("another")
    monkeypatch.setattr(clock, "_BOOT", other_boot)
    restart(monkeypatch, wall=9000.0, steady=1.0)

    clock.resume(data)

    assert clock._clock.read(wall=9000.0, steady=1.0) == 9000.0


@pytest.mark.parametrize("content", ["", "{}", "null", '{"boot": 1'])
def test_a_kept_time_that_cannot_be_read_is_none(data, monkeypatch, content):
    (data / clock.FILE).write_text(content)
    restart(monkeypatch, wall=9000.0, steady=7.0)

    clock.resume(data)

    assert clock._clock.read(wall=9000.0, steady=7.0) == 9000.0


def test_a_time_that_cannot_be_written_leaves_the_last_one(data, monkeypatch):
    (data / f"{clock.FILE}.new").mkdir()

    clock.keep(data)

    restart(monkeypatch, wall=9000.0, steady=7.0)
    clock.resume(data)
    assert clock._clock.read(wall=9000.0, steady=7.0) == pytest.approx(1002.0, abs=0.5)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e9, 1e9)), max_size=30))
def test_it_never_goes_back_and_keeps_the_pace_of_real_time(steps):
    clock, steady, before = Clock(wall=1e9, steady=0.0), 0.0, 1e9
    for elapsed, jump in steps:
        steady += elapsed
        shown = clock.read(wall=1e9 + steady + jump, steady=steady)
        assert before + elapsed * (1 - SLEW) - 1e-3 <= shown <= before + elapsed * (1 + SLEW) + 1e-3
        before = shown

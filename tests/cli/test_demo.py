"""The demonstration, as `make demo` runs it."""

import pytest

from ebbtide.cli.demo import instance_seconds
from ebbtide.cli.picture import Graphs, draw


@pytest.mark.parametrize(
    ("counts", "used_s"),
    [
        pytest.param([], 0, id="nothing seen, nothing used"),
        pytest.param([(10.0, 3)], 0, id="one look spans no time"),
        pytest.param([(10.0, 0), (15.0, 0)], 0, id="zero instances cost nothing"),
        pytest.param([(10.0, 2), (12.0, 5), (13.0, 0)], 9, id="each count holds until the next"),
    ],
)
def test_instance_seconds_are_counts_times_their_time(counts, used_s):
    assert instance_seconds(counts) == used_s


def test_the_picture_is_a_png(tmp_path):
    rise_and_fall = [(0.0, 0.0), (1.0, 5.0), (2.0, 0.0)]

    draw(Graphs("A tide", rise_and_fall, rise_and_fall, rise_and_fall, target=5.0), tmp_path / "tide.png")

    assert (tmp_path / "tide.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_demonstration_summarises_and_returns_to_zero(run_ebbtide, tmp_path):
    done = run_ebbtide("demo", "--requests", "40", "--picture", tmp_path / "tide.png")

    assert done.returncode == 0, done.stderr + done.stdout
    assert "instance-seconds" in done.stdout
    assert "author" in done.stdout
    assert (tmp_path / "tide.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_demonstration_with_a_document_that_cannot_be_summarised_fails(run_ebbtide, tmp_path):
    (tmp_path / "empty.txt").write_text("")

    done = run_ebbtide("demo", tmp_path / "empty.txt", "--picture", tmp_path / "tide.png")

    assert done.returncode == 1
    assert "1 of 1 invocations failed" in done.stderr

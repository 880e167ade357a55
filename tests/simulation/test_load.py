"""Where simulated arrivals come from: files, a server's history, made-up storms."""

import pytest

from ebbtide.simulation.load import TTL_S, Arrival, LoadError, load, of_history, read, storm


def test_csv_needs_no_more_than_times(tmp_path):
    path = tmp_path / "arrivals.csv"
    path.write_text("at,service_s,priority,account,ttl_s\n5,,,,\n2026-03-01T12:00:00Z,0.5,7,Law,60\n")

    assert read(path) == [Arrival(5.0), Arrival(1772366400.0, 0.5, 7, "Law", 60.0)]


def test_json_lines_hold_the_same(tmp_path):
    path = tmp_path / "arrivals.jsonl"
    path.write_text('{"at": 5}\n\n{"at": "1970-01-01T00:01:00+00:00", "service_s": 0.5}\n')

    assert read(path) == [Arrival(5.0), Arrival(60.0, 0.5)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.csv", "service_s\n1\n", "line 2: at is missing", id="no time"),
        pytest.param("a.csv", "at\nsoon\n", "line 2: Invalid isoformat", id="no such time"),
        pytest.param("a.csv", "at,ttl_s\n1,0\n", "line 2: times must be", id="no time to live"),
        pytest.param("a.csv", "at,service_s\n1,-1\n", "line 2: times must be", id="negative service time"),
        pytest.param("a.csv", "at,priority\n1,101\n", "line 2: priority must", id="priority out of bounds"),
        pytest.param("a.csv", "at,colour\n1,red\n", "line 2: colour is not known", id="unknown column"),
        pytest.param("a.csv", "at\nnan\n", "line 2: times must be", id="not a number"),
        pytest.param("a.jsonl", '{"at": 1}\n{\n', "line 2: not JSON", id="broken JSON"),
        pytest.param("a.jsonl", "[1]\n", "line 1: not a JSON object", id="another kind of JSON"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)

    with pytest.raises(LoadError, match=message):
        read(tmp_path / name)


def test_history_gives_service_times_of_those_that_succeeded():
    accepted = {
        "accepted_at": "2026-03-01T12:00:00Z",
        "claimed_at": "2026-03-01T12:00:01Z",
        "finished_at": "2026-03-01T12:00:03Z",
        "expires_at": "2026-03-01T18:00:00Z",
        "priority": 3,
        "account": "222222222222",
    }

    [done, failed] = of_history([accepted | {"state": "succeeded"}, accepted | {"state": "failed"}])

    assert done == Arrival(1772366400.0, 2.0, 3, "222222222222", TTL_S)
    assert failed.service_s is None


def test_arrivals_are_brought_into_order_and_unknown_service_times_drawn_from_the_others():
    made = load([Arrival(9.0), Arrival(1.0, 0.25), Arrival(4.0)])

    assert made.at == [1.0, 4.0, 9.0]
    assert made.service_s == [0.25, 0.25, 0.25]


def test_a_storm_is_the_same_for_the_same_seed():
    assert storm(100, over_s=60, seed=7) == storm(100, over_s=60, seed=7)
    assert all(0 <= each.at < 60 for each in storm(100, over_s=60))


def test_nothing_to_simulate_is_said():
    with pytest.raises(LoadError, match="no arrivals"):
        load([])

"""The promise that nothing accepted is lost or done twice, with kill -9 on whatever runs."""

from bench.storm import storm


def test_every_accepted_request_has_one_outcome_and_a_notification_whatever_is_killed(tmp_path):
    tally = storm(tmp_path, seed=3, invocations=40, kills=5)

    assert tally.accepted == 40
    assert tally.without_one_outcome == []
    assert tally.wrong_bytes == []
    assert tally.unnotified == []
    assert tally.processes_left == []
    assert tally.recoveries_s

"""Log streams: every line comes back, in order, from any position, within a bound, across restarts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide import logs
from ebbtide.logs import AlreadyExists, GroupNotFound, LogStore, StreamNotFound, interleaved, matcher

ACCOUNT, OTHER = "123456789012", "222222222222"
GROUP = "/aws/sagemaker/Endpoints/summaries"


@pytest.fixture
def store(tmp_path):
    logs = LogStore(tmp_path / "logs")
    yield logs.of(ACCOUNT)
    logs.close()


def test_equal_names_of_two_accounts_are_two_groups(store, tmp_path):
    logs = LogStore(tmp_path / "logs")
    other = logs.of(OTHER)
    store.stream(GROUP, "s").write("mine", at=1)

    assert other.groups() == []
    with pytest.raises(GroupNotFound):
        other.delete_group(GROUP)
    other.stream(GROUP, "s").write("theirs", at=1)
    assert messages(store.existing_stream(GROUP, "s").forward(0)) == ["mine"]
    logs.close()


def messages(events):
    return [event.message for event in events]


def test_lines_are_read_forward_and_backward_at_once_after_they_are_written(store):
    stream = store.stream(GROUP, "AllTraffic/i-1")

    for number in range(5):
        stream.write(f'line {number}\t"é"', at=1000.5 + number)

    read = list(stream.forward(0))
    assert messages(read) == [f'line {number}\t"é"' for number in range(5)]
    assert [event.at_ms for event in read] == [1_000_500 + 1000 * number for number in range(5)]
    assert list(stream.backward(None)) == read[::-1]


def test_any_event_is_a_place_to_read_on_from(store):
    stream = store.stream(GROUP, "s")
    for number in range(50):
        stream.write("x" * number, at=number)
    read = list(stream.forward(0))

    for index, event in enumerate(read):
        assert list(stream.forward(event.end)) == read[index + 1 :]
        assert list(stream.backward(event.position)) == read[:index][::-1]


def test_a_position_inside_a_line_reads_on_at_the_next_one(store):
    stream = store.stream(GROUP, "s")
    for number in range(3):
        stream.write(f"line {number}", at=number)

    assert messages(stream.forward(3)) == ["line 1", "line 2"]
    assert messages(stream.backward(10_000)) == ["line 2", "line 1", "line 0"]


def test_a_full_stream_drops_its_oldest_events_and_keeps_its_positions(store, monkeypatch):
    monkeypatch.setattr(logs, "SEGMENT_BYTES", 500)
    monkeypatch.setattr(logs, "MAX_SEGMENTS", 3)
    stream = store.stream(GROUP, "s")
    for number in range(100):
        stream.write(f"line {number}", at=number)

    read = list(stream.forward(0))

    assert messages(read) == [f"line {number}" for number in range(100 - len(read), 100)]
    assert stream.stored_bytes() <= 3 * 550
    assert list(stream.backward(None)) == read[::-1]
    assert list(stream.forward(read[3].end)) == read[4:]


def test_what_was_written_before_a_restart_is_followed_by_what_comes_after(tmp_path, store):
    store.stream(GROUP, "s").write("before", at=1)
    segment = store.stream(GROUP, "s").segments()[-1][1]
    store.stream(GROUP, "s").close()
    with segment.open("ab") as file:
        file.write(b"0000000001000 00000")  # the server was killed as it wrote

    logs = LogStore(tmp_path / "logs")
    restarted = logs.of(ACCOUNT)
    restarted.stream(GROUP, "s").write("after", at=2)

    assert messages(restarted.existing_stream(GROUP, "s").forward(0)) == ["before", "after"]
    logs.close()


def test_a_line_too_long_for_an_event_becomes_several(store):
    stream = store.stream(GROUP, "s")

    stream.write("é" * logs.MAX_MESSAGE_BYTES, at=1)

    read = list(stream.forward(0))
    assert "".join(messages(read)) == "é" * logs.MAX_MESSAGE_BYTES
    assert all(len(message.encode()) <= logs.MAX_MESSAGE_BYTES for message in messages(read))


def test_events_of_several_streams_come_in_the_order_of_time(store):
    for at, name in enumerate("abcabcba"):
        store.stream(GROUP, name).write(f"{at}", at=at)

    read = [event.message for _, event in interleaved(store.streams(GROUP), {}, since_ms=2000)]

    assert read == ["2", "3", "4", "5", "6", "7"]


def test_a_stream_deleted_under_its_writer_begins_anew(store):
    stream = store.stream(GROUP, "s")
    stream.write("before", at=1)

    store.delete_group(GROUP)
    stream.write("after", at=2)

    assert messages(store.existing_stream(GROUP, "s").forward(0)) == ["after"]


def test_what_a_power_failure_left_of_a_line_hides_no_other(store):
    stream = store.stream(GROUP, "s")
    stream.write("before", at=1)
    store.stream(GROUP, "s").close()
    with stream.segments()[-1][1].open("ab") as file:
        file.write(bytes(100))

    stream.write("after", at=2)

    assert messages(stream.forward(0)) == ["before", "after"]
    assert messages(stream.backward(None)) == ["after", "before"]


def test_a_deleted_group_takes_its_streams_with_it(store):
    store.stream(GROUP, "s").write("line", at=1)

    store.delete_group(GROUP)

    with pytest.raises(GroupNotFound):
        store.streams(GROUP)
    store.create_group(GROUP, now=1)
    assert store.streams(GROUP) == []


def test_streams_outlive_their_last_event_by_their_groups_retention(store):
    store.stream(GROUP, "old").write("line", at=1_000_000)
    store.stream(GROUP, "new").write("line", at=2_000_000)
    store.stream("kept for ever", "old").write("line", at=1_000_000)
    store.set_retention(GROUP, days=1)

    store.expire(now=2_000_000 + 3600)

    assert [stream.name for stream in store.streams(GROUP)] == ["new"]
    assert [stream.name for stream in store.streams("kept for ever")] == ["old"]


def test_what_does_not_exist_or_exists_already_is_said(store):
    with pytest.raises(GroupNotFound):
        store.existing_stream(GROUP, "s")
    store.create_group(GROUP, now=1)
    with pytest.raises(StreamNotFound):
        store.existing_stream(GROUP, "s")
    with pytest.raises(AlreadyExists):
        store.create_group(GROUP, now=1)
    store.create_stream(GROUP, "s")
    with pytest.raises(AlreadyExists):
        store.create_stream(GROUP, "s")


def test_more_streams_can_be_written_than_are_held_open(store, monkeypatch):
    monkeypatch.setattr(logs, "MAX_OPEN_STREAMS", 3)
    streams = [store.stream(GROUP, str(number)) for number in range(6)]

    for _ in range(2):
        for stream in streams:
            stream.write("line", at=1)

    assert [len(list(stream.forward(0))) for stream in store.streams(GROUP)] == [2] * 6


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_comes_back_as_it_was(tmp_path_factory, text):
    logs = LogStore(tmp_path_factory.mktemp("logs"))
    store = logs.of(ACCOUNT)
    store.stream(GROUP, "s").write(text, at=1)

    assert messages(store.existing_stream(GROUP, "s").forward(0)) == [text]
    logs.close()


@pytest.mark.parametrize(
    ("pattern", "message", "expected"),
    [
        pytest.param("", "anything", True, id="no terms match everything"),
        pytest.param("ERROR", "an ERROR here", True, id="one term"),
        pytest.param("ERROR", "an error here", False, id="case counts"),
        pytest.param("ERROR memory", "memory ERROR", True, id="all terms in any order"),
        pytest.param("ERROR memory", "disk ERROR", False, id="one of two is not enough"),
        pytest.param('"out of memory"', "was out of memory", True, id="a quoted phrase"),
        pytest.param('"out of memory"', "memory out of", False, id="a phrase keeps its order"),
        pytest.param("ERROR -expected", "ERROR, expected", False, id="an excluded term"),
        pytest.param("?WARN ?ERROR", "a WARN", True, id="either"),
        pytest.param("?WARN ?ERROR", "an INFO", False, id="neither"),
        pytest.param(r'"say \"hi\""', 'they say "hi"', True, id="a quote in a phrase"),
    ],
)
def test_a_filter_pattern_lets_through(pattern, message, expected):
    assert matcher(pattern)(message) is expected


@pytest.mark.parametrize("pattern", ["{ $.level = 1 }", "[a, b]", "%ERR.*%", '"unfinished'])
def test_a_filter_pattern_of_another_kind_is_refused(pattern):
    with pytest.raises(ValueError):
        matcher(pattern)

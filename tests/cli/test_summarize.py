"""`ebbtide summarize`: any number of articles of any kind, whose summaries survive interruptions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.documents import pdf, prose

TRENDS = Path(__file__).parents[2] / "examples" / "trends.py"

TEXT = (
    "The tide rises and the tide falls. Boats in the harbour rise and fall with it. Fishermen wait for the "
    "flood to leave the harbour. At the ebb nobody works, and nobody is paid for waiting. Every day the tide "
    "returns an hour later than the day before. "
)


@pytest.fixture(scope="module")
def summarize(run_ebbtide):
    """Run `ebbtide summarize` with these arguments on an endpoint of its own."""
    name = "of-articles"
    deployed = run_ebbtide("deploy", "ebbtide/extractive", "--name", name, "--max", 1, "--cooldown", 3600)
    assert deployed.returncode == 0, deployed.stderr
    yield lambda *arguments: run_ebbtide("summarize", *arguments, "--endpoint", name)
    run_ebbtide("delete", name)


def written(path):
    """The rows of an output file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_summary_of_a_file_is_printed(summarize, tmp_path):
    (tmp_path / "tide.txt").write_text(TEXT * 3)

    done = summarize(tmp_path / "tide.txt")

    assert done.returncode == 0, done.stderr
    assert "tide" in done.stdout


def test_summaries_are_printed_for_programs_in_the_files_order(summarize, tmp_path):
    paths = [tmp_path / name for name in ("b.txt", "a.txt", "c.txt")]
    for path in paths:
        path.write_text(TEXT)

    done = summarize(*paths, "--json")

    summaries = json.loads(done.stdout)
    assert [summary["file"] for summary in summaries] == [str(path) for path in paths]
    assert all(summary["summary"] and summary["failure"] is None for summary in summaries)


def test_what_there_is_is_printed_and_what_there_is_not_is_named(summarize, tmp_path):
    (tmp_path / "good.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")

    done = summarize(tmp_path / "good.txt", tmp_path / "empty.txt")

    assert done.returncode == 1
    assert "tide" in done.stdout
    assert done.stderr.startswith(f"ebbtide: 1 of 2 failed:\n{tmp_path}/empty.txt: ")


def test_a_directory_stands_for_its_documents_of_every_kind(summarize, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "paper.pdf").write_bytes(pdf([("Tides", [prose(1), prose(2)])]))
    page = f"<html><body><article><p>{TEXT}</p></article></body></html>"
    (tmp_path / "more" / "page.html").write_text(page)
    (tmp_path / "latin.txt").write_bytes(("Die Flut kommt über die Küste. " + TEXT).encode("latin-1"))
    (tmp_path / ".hidden.txt").write_text(TEXT)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")

    done = summarize(tmp_path, "--json")

    assert done.returncode == 0, done.stderr
    names = [summary["file"].removeprefix(f"{tmp_path}/") for summary in json.loads(done.stdout)]
    assert names == ["latin.txt", "more/page.html", "paper.pdf"]


def test_a_directory_without_documents_is_refused(summarize, tmp_path):
    refused = summarize(tmp_path)

    assert refused.returncode == 1
    assert f"{tmp_path} has no files of the kinds .txt, " in refused.stderr


def test_each_row_of_a_data_set_is_an_article_and_keeps_its_fields(summarize, tmp_path):
    rows = [{"id": f"a{number}", "date": "2026-01-31", "article": prose(number)} for number in range(5)]
    (tmp_path / "articles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = summarize(tmp_path / "articles.jsonl", "-o", tmp_path / "summaries.jsonl")

    assert done.returncode == 0, done.stderr
    summaries = sorted(written(tmp_path / "summaries.jsonl"), key=lambda summary: summary["row"])
    assert [summary["row"] for summary in summaries] == [1, 2, 3, 4, 5]
    assert [summary["article"] for summary in summaries] == [
        {"id": row["id"], "date": "2026-01-31"} for row in rows
    ]
    assert all(f"Sentence{summary['row'] - 1}x" in summary["summary"] for summary in summaries)


def test_a_trend_is_followed_through_summaries_in_a_database(summarize, tmp_path):
    articles = {"2026-01-31": prose(1), "2026-02-01": TEXT, "2026-02-28": prose(2)}
    rows = [{"published": date, "article": article} for date, article in articles.items()]
    (tmp_path / "articles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summarize(tmp_path / "articles.jsonl", "-o", tmp_path / "summaries.jsonl")
    given = ["summaries.jsonl", "summaries.db", "falling", "--date", "published"]

    # A second time, as after each run: nothing is counted twice.
    first, second = (
        subprocess.run(
            [sys.executable, TRENDS, *given], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    )

    assert [line.split()[:4] for line in first.stdout.splitlines()] == [
        ["2026-01", "0", "of", "1"],
        ["2026-02", "1", "of", "2"],
    ]
    assert second.stdout == first.stdout


def test_an_interrupted_run_goes_on_without_asking_twice(run_ebbtide, summarize, tmp_path):
    articles, output = tmp_path / "articles.jsonl", tmp_path / "summaries.jsonl"
    title = "Ebb\u2028flow \ud83d"  # what other readers take for a line's end, and half a character
    rows = [{"title": title, "text": prose(number)} for number in range(4)]
    articles.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (articles, "--output", output, "--tag", "run:interrupted")
    assert summarize(*arguments).returncode == 0
    lines = output.read_bytes().splitlines(keepends=True)
    half = lines[1].index("\u2028".encode()) + 1
    # Killed in the middle of a line, and of a character, with two not fetched yet.
    output.write_bytes(lines[0] + lines[1][:half])

    again = summarize(*arguments)

    assert again.returncode == 0, again.stderr
    assert f"4 summaries in {output}" in again.stdout
    assert sorted(summary["row"] for summary in written(output)) == [1, 2, 3, 4]
    assert {summary["article"]["title"] for summary in written(output)} == {title}
    asked = run_ebbtide("invocations", "--tag", "run:interrupted", "--json").stdout
    assert len(json.loads(asked)) == 4


def test_a_failed_article_is_tried_again_by_the_next_run(summarize, tmp_path):
    article, output = tmp_path / "article.txt", tmp_path / "summaries.jsonl"
    article.write_text("")
    failed = summarize(article, "--output", output)
    article.write_text(TEXT)

    mended = summarize(article, "--output", output)

    assert (failed.returncode, mended.returncode) == (1, 0)
    [summary] = written(output)
    assert summary["summary"]


@pytest.mark.parametrize("notes", [b"not to be lost\n", b"nor without an end", b"\xff nor what is no text"])
def test_an_output_that_holds_something_else_is_left_alone(summarize, tmp_path, notes):
    (tmp_path / "article.txt").write_text(TEXT)
    (tmp_path / "notes.txt").write_bytes(notes)

    refused = summarize(tmp_path / "article.txt", "--output", tmp_path / "notes.txt")

    assert refused.returncode == 1
    assert "has a line 1 that is no summary" in refused.stderr
    assert (tmp_path / "notes.txt").read_bytes() == notes


def test_an_output_that_cannot_be_written_is_named(summarize, tmp_path):
    (tmp_path / "article.txt").write_text(TEXT)

    refused = summarize(tmp_path / "article.txt", "--output", tmp_path / "missing/summaries.jsonl")

    assert refused.returncode == 1
    assert refused.stderr.endswith("missing/summaries.jsonl cannot be written: No such file or directory\n")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        pytest.param("--parameters", "{", "--parameters is not JSON", id="parameters that are no JSON"),
        pytest.param("--parameters", "[1]", "--parameters must be a JSON object", id="nor an object"),
        pytest.param("--tag", "trends", "--tag trends: give KEY:VALUE", id="a tag without a value"),
        pytest.param("--parameters", '{"beams": 8}', "beams", id="a parameter the model does not know"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused(summarize, tmp_path, option, value, told):
    (tmp_path / "article.txt").write_text(TEXT)

    refused = summarize(tmp_path / "article.txt", option, value)

    assert refused.returncode == 1
    assert told in refused.stderr

"""`ebbtide evaluate` scores any summariser on anybody's articles, as papers do."""

import csv
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy
import pytest

from ebbtide.evaluation import pairs, rouge, summarisers, table
from ebbtide.evaluation.pairs import DataError, Pair
from tests.checkpoints import Trained

ROWS = [
    {
        "article": f"The tide rose by {n} cm today. It fell again. Nobody saw it.",
        "summary": f"Tide rose {n} cm.",
    }
    for n in range(5)
]


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix.lower() == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(*arguments: str | Path, home: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ebbtide", "evaluate", *map(str, arguments)]
    environment = {**os.environ, "EBBTIDE_DATA": str(home), "COLUMNS": "160"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv", "DATA.CSV"])
def test_pairs_are_read_from_json_lines_json_and_csv(tmp_path: Path, name: str) -> None:
    found = pairs.read(written(tmp_path / name, ROWS))
    assert found == [Pair(row["article"], row["summary"]) for row in ROWS]


def test_the_members_can_be_named_and_the_rows_limited(tmp_path: Path) -> None:
    data = written(tmp_path / "data.jsonl", [{"a": row["article"], "b": row["summary"]} for row in ROWS])
    assert len(pairs.read(data, article="a", reference="b", limit=2)) == 2


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "has no rows"),
        ("[1]", "row 1 is no JSON object"),
        ("{", "line 1 is not JSON"),
        ('{"x": "y"}', "has no article or document"),
        ('{"article": "y"}', "has no reference or summary"),
        ('{"article": "y", "summary": " "}', "row 1 has no text in summary"),
    ],
)
def test_data_of_another_kind_is_refused_with_the_row(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=cause):
        pairs.read(path)


def test_a_parquet_file_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    many = [{"article": f"Text {n}.", "summary": f"{n}"} for n in range(2 * pairs.PARQUET_ROWS + 1)]
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(many), path)
    assert pairs.read(path) == [Pair(row["article"], row["summary"]) for row in many]


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        pairs.read(path)


def test_without_pyarrow_a_parquet_file_is_refused_with_the_ways_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"ebbtide\[parquet\].*to_json"):
        pairs.read(tmp_path / "data.parquet")


def test_a_summary_equal_to_its_reference_scores_a_hundred_and_another_none() -> None:
    found = rouge.f1(["The tide rose. It fell.", "Bananas grow."], ["The tide rose. It fell."] * 2)
    assert found.tolist() == [[100, 100, 100], [0, 0, 0]]


def test_intervals_enclose_the_mean_and_are_the_same_every_time() -> None:
    found = numpy.array([[10.0, 5, 7], [30, 15, 17], [20, 10, 12]])
    scores = rouge.summed_up(found)
    assert scores == rouge.summed_up(found)
    for score in scores.values():
        assert score.low <= score.mean <= score.high
    assert scores["ROUGE-1"].mean == 20


def test_a_table_has_a_row_for_each_summariser_in_order() -> None:
    told: list[int] = []
    data = [Pair(row["article"], row["summary"]) for row in ROWS]
    rows = table.evaluate(data, {"one": summarisers.lead(1), "all": summarisers.lead(9)}, told.append)
    assert [row.summariser for row in rows] == ["one", "all"]
    assert rows[0].scores["ROUGE-1"].mean > rows[1].scores["ROUGE-1"].mean
    assert sum(told) == 2 * len(data)


def test_a_model_in_an_archive_is_scored_beside_what_needs_none(tmp_path: Path, trained: Trained) -> None:
    folder = trained("bart")
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname=".")
    data = written(tmp_path / "data.jsonl", ROWS)
    said = tmp_path / "said.jsonl"
    asked: tuple[str | Path, ...] = (archive, "--data", data, "--predictions", said, "--json")
    finished = run(*asked, "--parameters", '{"max_new_tokens": 8, "num_beams": 2}', home=tmp_path / "home")
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout)
    assert answer["pairs"] == len(ROWS)
    assert [row["summariser"] for row in answer["summarisers"]] == [
        "lead-3",
        "ebbtide/extractive",
        str(archive),
    ]
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    assert [set(line["summaries"]) for line in lines] == [{"lead-3", "ebbtide/extractive", str(archive)}] * 5


def test_the_table_for_people_names_measures_and_intervals(tmp_path: Path) -> None:
    data = written(tmp_path / "data.jsonl", ROWS)
    finished = run("ebbtide/extractive", "--data", data, home=tmp_path)
    assert finished.returncode == 0, finished.stderr
    for expected in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "lead-3", "ebbtide/extractive", "over 5 pairs"):
        assert expected in finished.stdout


def test_a_table_for_programs_is_csv_too_and_so_are_the_summaries(tmp_path: Path) -> None:
    data, said = written(tmp_path / "data.jsonl", ROWS), tmp_path / "said.csv"
    finished = run("ebbtide/extractive", "--data", data, "--csv", "--predictions", said, home=tmp_path)
    assert finished.returncode == 0, finished.stderr
    rows = list(csv.DictReader(finished.stdout.splitlines()))
    assert [row["summariser"] for row in rows] == ["lead-3", "ebbtide/extractive"]
    for row in rows:
        assert float(row["ROUGE-L low"]) <= float(row["ROUGE-L"]) <= float(row["ROUGE-L high"])
    with said.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["reference"] for line in lines] == [row["summary"] for row in ROWS]
    assert lines[0]["lead-3"] == ROWS[0]["article"]


@pytest.mark.parametrize(
    ("model", "options", "cause"),
    [
        ("/nowhere", [], "does not exist"),
        ("ebbtide/extractive", ["--parameters", "[]"], "must be a JSON object"),
        ("ebbtide/extractive", ["--parameters", '{"num_beams": 3}'], "refuses an article"),
        ("ebbtide/extractive", ["--env", "X"], "is not NAME=VALUE"),
        ("ebbtide/extractive", ["--article", "nothing"], "The data has no nothing"),
        ("ebbtide/extractive", ["--data", "/nowhere.jsonl"], "cannot be read: No such file"),
        ("ebbtide/extractive", ["--predictions", "/nowhere/said.jsonl"], "cannot be written: No such file"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line(
    tmp_path: Path, model: str, options: list[str], cause: str
) -> None:
    finished = run(model, "--data", written(tmp_path / "data.jsonl", ROWS), *options, home=tmp_path)
    assert finished.returncode == 1
    assert cause in finished.stderr
    assert "Traceback" not in finished.stderr

"""`ebbtide costs` as a user runs it."""

import csv
import io
import json
from datetime import date

import pytest
from tests.deployments import deploy

from ebbtide.cli.costs import first_day
from ebbtide.cli.errors import CommandError


@pytest.fixture(scope="module")
def endpoint(ebbtide):
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}).name


def test_costs_are_a_table_json_or_csv(run_ebbtide, endpoint):
    table = run_ebbtide("costs", "--endpoint", endpoint, COLUMNS="200")
    as_json = run_ebbtide("costs", "--endpoint", endpoint, "--json")
    as_csv = run_ebbtide("costs", "--endpoint", endpoint, "--by", "day", "--csv")

    assert (table.returncode, as_json.returncode, as_csv.returncode) == (0, 0, 0), table.stderr
    assert endpoint in table.stdout
    assert json.loads(as_json.stdout)["rows"][0]["of"] == {"endpoint": endpoint}
    assert len(list(csv.DictReader(io.StringIO(as_csv.stdout)))) in (1, 2)  # days: two around midnight


def test_so_many_days_end_today():
    assert first_day("7d", date(2026, 3, 7)) == date(2026, 3, 1)
    assert first_day("2026-02-01", date(2026, 3, 7)) == date(2026, 2, 1)
    with pytest.raises(CommandError, match="soon is not a day"):
        first_day("soon", date(2026, 3, 7))

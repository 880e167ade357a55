"""Metrics of a database that an earlier version wrote, in which all accounts shared them."""

from contextlib import ExitStack

import pytest
from tests.earlier import fill_at

from ebbtide.database import Database
from ebbtide.identifiers import ACCOUNT
from ebbtide.metrics import Point, query, record
from ebbtide.metrics.query import Metric
from ebbtide.migrations import migrate

LAW = "333333333333"

SHARED = f"""
INSERT INTO endpoints VALUES ('1', '{ACCOUNT}', 'both','both','a1', 'InService', NULL, '{{}}', NULL, 1, 1, 1);
INSERT INTO endpoints VALUES ('2', '{LAW}', 'both', 'both', 'a2', 'InService', NULL, '{{}}', NULL, 1, 1, 1);
INSERT INTO endpoints VALUES ('3', '{LAW}', 'laws', 'laws', 'a3', 'InService', NULL, '{{}}', NULL, 1, 1, 1);
INSERT INTO metric_series VALUES (1, 'AWS/SageMaker', 'Load', '[["EndpointName","both"]]', 'None');
INSERT INTO metric_series VALUES (2, 'AWS/SageMaker', 'Load',
    '[["EndpointName","laws"],["VariantName","v"]]', 'None');
INSERT INTO metric_series VALUES (3, 'Mine', 'Level', '[]', 'None');
INSERT INTO metric_points VALUES (2, 60, 600, 7, 1.0, 5.0, 5.0, 5.0)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_each_metric_goes_to_the_account_that_has_its_endpoint(kind, tmp_path, request):
    with ExitStack() as made:
        place = tmp_path / "ebbtide.db"
        if kind == "postgresql":
            place = made.enter_context(request.getfixturevalue("postgresql").database())
        database = Database(place)
        made.callback(database.close)
        fill_at(database.engine, "0005", SHARED)
        laws = Metric("AWS/SageMaker", "Load", (("EndpointName", "laws"), ("VariantName", "v")))

        migrate(database.engine)
        later = Point(LAW, laws.namespace, laws.name, laws.dimensions, 7.0, "None", 660.0)
        await database.write(lambda c: record(c, [later]))

        def read(connection):
            values = query.statistics(connection, LAW, laws, "Sum", period_s=60, start=600, end=720)
            return values, query.find(connection, LAW), query.find(connection, ACCOUNT)

        values, of_law, of_the_operator = await database.read(read)
    assert values == {600: 5.0, 660: 7.0}
    assert of_law == [laws]
    assert {(metric.name, metric.dimensions) for metric in of_the_operator} == {
        ("Load", (("EndpointName", "both"),)),
        ("Level", ()),
    }

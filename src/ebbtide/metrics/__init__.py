"""Counters and gauges over time: recorded in the transaction of what they count, read as CloudWatch does.

`points` records and keeps, `query` reads statistics and evaluates expressions, `alarms` watches them.
"""

from ebbtide.metrics.points import Point, StatisticSet, record, record_sets, roll_up

__all__ = ["Point", "StatisticSet", "record", "record_sets", "roll_up"]

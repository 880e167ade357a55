"""Pictures of runs: backlog, instances and what else is asked over time, one above the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#1f2933"
FAINT = "#7b8794"
GRID = "#e4e7eb"
WATER = "#1282a2"
SAND = "#d98324"
DEEP = "#034078"
COURSES = (DEEP, SAND, "#3a7d44", "#9b2226", "#7b2cbf", WATER)
DASHES = ("-", (0, (5, 2)), (0, (1, 1)))

Series = Sequence[tuple[float, float]]
"""(seconds since the beginning, value), in order."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """What a picture shows. `target` is the backlog per instance that the policy keeps to."""

    title: str
    backlog: Series
    backlog_per_instance: Series
    instances: Series
    target: float


def draw(graphs: Graphs, path: Path) -> None:
    """Write the picture as PNG."""
    layout = ConstrainedLayoutEngine(h_pad=0.12, hspace=0.06)
    figure = Figure(figsize=(9, 7.2), dpi=160, facecolor="white", layout=layout)
    backlog, per_instance, instances = figure.subplots(3, 1, sharex=True)
    figure.suptitle(graphs.title, x=0.02, ha="left", fontsize=15, fontweight="bold", color=INK)
    _fill(backlog, graphs.backlog, WATER)
    _name(backlog, "Backlog", "requests queued or running")
    _line(per_instance, graphs.backlog_per_instance, SAND)
    _name(per_instance, "Backlog per instance", f"the policy's target is {graphs.target:g}")
    per_instance.axhline(graphs.target, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    _steps(instances, graphs.instances, DEEP)
    _name(instances, "Instances", "in service")
    instances.yaxis.get_major_locator().set_params(integer=True)
    instances.set_xlabel("seconds since the burst began", color=FAINT, fontsize=9)
    for panel in (backlog, per_instance, instances):
        _quieten(panel)
    figure.savefig(path)


@dataclass(frozen=True, slots=True)
class Course:
    """How one of several went, by its name."""

    name: str
    backlog: Series
    oldest_age_s: Series
    instances: Series


def draw_courses(title: str, arrivals: Series, courses: Sequence[Course], path: Path) -> None:
    """Write as PNG what arrived a second, and how each of the courses took it."""
    layout = ConstrainedLayoutEngine(h_pad=0.12, hspace=0.06)
    figure = Figure(figsize=(9, 8.6), dpi=160, facecolor="white", layout=layout)
    coming, backlog, oldest, instances = figure.subplots(4, 1, sharex=True)
    figure.suptitle(title, x=0.02, ha="left", fontsize=15, fontweight="bold", color=INK)
    _name(coming, "Arrivals", "requests a second")
    _steps(coming, arrivals, WATER)
    _name(backlog, "Backlog", "requests queued or running")
    _name(oldest, "Oldest request", "age in seconds")
    _name(instances, "Instances", "in service")
    for number, course in enumerate(courses):
        color, dash = COURSES[number % len(COURSES)], DASHES[number // len(COURSES) % len(DASHES)]
        style = {"color": color, "linewidth": 1.8, "linestyle": dash, "clip_on": False}
        backlog.plot(*_columns(course.backlog), **style, label=course.name)
        oldest.plot(*_columns(course.oldest_age_s), **style)
        instances.step(*_columns(course.instances), where="post", **style)
    if len(courses) > 1:
        backlog.legend(frameon=False, fontsize=9, labelcolor=INK)
    instances.yaxis.get_major_locator().set_params(integer=True)
    instances.set_xlabel("seconds since the first request", color=FAINT, fontsize=9)
    for panel in (coming, backlog, oldest, instances):
        _quieten(panel)
    figure.savefig(path)


def _fill(panel: Any, series: Series, color: str) -> None:
    times, values = _columns(series)
    panel.fill_between(times, values, color=color, alpha=0.16, linewidth=0)
    panel.plot(times, values, color=color, linewidth=2, clip_on=False, zorder=3)


def _line(panel: Any, series: Series, color: str) -> None:
    times, values = _columns(series)
    panel.plot(times, values, color=color, linewidth=2, marker="o", markersize=3, clip_on=False, zorder=3)


def _steps(panel: Any, series: Series, color: str) -> None:
    times, values = _columns(series)
    panel.fill_between(times, values, step="post", color=color, alpha=0.16, linewidth=0)
    panel.step(times, values, where="post", color=color, linewidth=2, clip_on=False, zorder=3)


def _columns(series: Series) -> tuple[list[float], list[float]]:
    return [at for at, _ in series], [value for _, value in series]


def _name(panel: Any, name: str, meaning: str) -> None:
    panel.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
    panel.set_title(meaning, loc="right", fontsize=9, color=FAINT)


def _quieten(panel: Any) -> None:
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter("{x:,.10g}")
    panel.margins(x=0)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=FAINT, labelsize=9, length=0)
    panel.spines[:].set_visible(False)

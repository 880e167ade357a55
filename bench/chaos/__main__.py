"""`python -m bench.chaos`: run storms, write their report, and end with 1 if a promise was broken."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.chaos.machine import machine, versions
from bench.chaos.storm import storm

RATE_PER_S = 12.0
DATABASES = {"sqlite": ["sqlite"], "postgresql": ["postgresql"], "both": ["sqlite", "postgresql"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws requests and faults")
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults, for each database")
    parser.add_argument("--database", choices=list(DATABASES), default="both")
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="requests a second")
    parser.add_argument("--report", type=Path, default=Path("build/chaos.json"))
    given = parser.parse_args()
    given.report.parent.mkdir(parents=True, exist_ok=True)
    storms = [
        storm(
            seed=given.seed,
            seconds=given.minutes * 60,
            rate_per_s=given.rate,
            database=database,
            log=given.report.with_name(f"{given.report.stem}-{database}.log"),
        )
        for database in DATABASES[given.database]
    ]
    given.report.write_text(
        json.dumps({"machine": machine(), "versions": versions(), "storms": storms}, indent=2) + "\n"
    )
    for each in storms:
        _summarise(each)
    print(f"report: {given.report}")
    return 1 if any(each["violations"] for each in storms) else 0


def _summarise(report: dict[str, Any]) -> None:
    outcomes = ", ".join(f"{count} {what}" for what, count in report["outcomes"].items())
    print(f"\n{report['database']}: accepted {report['accepted']} of {report['planned']}: {outcomes}")
    print(
        f"lost {report['lost']}, duplicates {report['duplicates']}, not notified {report['unnotified']}; "
        f"redone {report['redone']['invocations']}, accepted without the client's knowing "
        f"{report['unacknowledged_outcomes']}"
    )
    print(f"notifications {report['notifications']}; refused {report['refused']}, {report['unanswered']}")
    print(f"{'after':34}{'times':>6}  {'next 202, p50 / p99':>22}  {'next outcome':>18}")
    for name, count in report["faults"].items():
        times = report["recovery"][name]
        print(f"{name:34}{count:6}  {_pair(times['next_202']):>22}  {_pair(times['next_outcome']):>18}")
    for name, reason in report["faults_left_out"].items():
        print(f"{name} was left out: {reason}")
    for violation in report["violations"]:
        print(f"BROKEN: {violation}")


def _pair(times: dict[str, float]) -> str:
    return f"{times['p50_s']:.2f} / {times['p99_s']:.2f} s" if times else "none"


if __name__ == "__main__":
    sys.exit(main())

"""The chaos suite at length: `python bench/chaos.py --runs 500`. Kills the operator at every point of a life, then
draws mixes of faults by seed; prints each violation, and a table or JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.chaos.runs import Verdict, disturbed, killed, undisturbed


def one(run: tuple[str, int]) -> Verdict:
    logging.disable(logging.CRITICAL)
    kind, number = run
    return killed(number) if kind == "kill" else disturbed(number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="mixes of faults, by seed")
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--kill-every", type=int, default=1, help="every how many points to kill; 0 for none")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    points = undisturbed().points
    runs = [("kill", p) for p in range(1, points + 1, arguments.kill_every)] if arguments.kill_every else []
    runs += [("seed", seed) for seed in range(arguments.first, arguments.first + arguments.runs)]
    began, found = time.monotonic(), []
    with ProcessPoolExecutor(arguments.workers) as pool:
        for verdict in pool.map(one, runs, chunksize=4):
            found.append(verdict)
            for sentence in verdict.violations:
                print(f"{verdict.name}: {sentence}", file=sys.stderr)
    bad = [v.name for v in found if v.violations]
    result = {
        "runs": len(found),
        "killed at a chosen point": sum(1 for kind, _ in runs if kind == "kill"),
        "points of a life": points,
        "kills": sum(v.kills for v in found),
        "other faults met": sum(v.hits for v in found),
        "hours of virtual time": round(sum(v.seconds for v in found) / 3600, 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "runs with violations": len(bad),
    }
    if arguments.json:
        print(json.dumps({**result, "bad": bad}))
    else:
        print("| what | number |\n| --- | --- |")
        for name, value in result.items():
            print(f"| {name} | {value} |")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

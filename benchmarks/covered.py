"""The shares of lines and of branches that the tests run, each by itself; coverage's own total mixes the two.

Run: make coverage

Reads `coverage json`'s file; ends with 1 where a share is below `--least`.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="What `coverage json` wrote.")
    parser.add_argument("--least", type=float, default=92.0, help="Per cent below which a share fails.")
    chosen = parser.parse_args()
    totals = json.loads(chosen.report.read_text(encoding="utf-8"))["totals"]
    shares = {
        "lines": (totals["covered_lines"], totals["num_statements"]),
        "branches": (totals["covered_branches"], totals["num_branches"]),
    }
    for name, (covered, of) in shares.items():
        print(f"{covered} of {of} {name} run: {covered / of:.1%}")
    if min(100 * covered / of for covered, of in shares.values()) < chosen.least:
        sys.exit(f"less than {chosen.least:g} %")


if __name__ == "__main__":
    main()

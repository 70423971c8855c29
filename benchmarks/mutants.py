"""The mutation score of each module that `make mutants` mutates: the share of small faults that its tests notice.

Run: make mutants

Reads what mutmut left in `mutants/`: of each mutant the exit code of pytest. A mutant counts as killed where a test failed,
or ran far longer than without it; where no test runs the function, or all pass, it survives. Prints a Markdown table and
the survivors, which `mutmut show NAME` shows; ends with 1 where a module's score is below `--least`.
"""

import argparse
import json
import sys
from pathlib import Path

KILLED = {1, 3, 24, -24, 36, 152, 255}  # pytest's failure and internal error, and the ways to run out of time


def exit_codes(path: Path) -> dict[str, int | None]:
    return json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=0.8, help="Score below which a module fails.")
    chosen = parser.parse_args()
    modules = {path.name.removesuffix(".py.meta"): exit_codes(path) for path in Path("mutants").rglob("*.py.meta")}
    modules = {name: codes for name, codes in sorted(modules.items()) if codes}
    if not modules or None in {code for codes in modules.values() for code in codes.values()}:
        sys.exit("mutants/ holds no finished run of mutmut; run 'make mutants'.")
    scores = {name: sum(code in KILLED for code in codes.values()) / len(codes) for name, codes in modules.items()}
    print("| module | mutants | killed | score |\n|---|---|---|---|")
    for name, codes in modules.items():
        print(f"| `{name}` | {len(codes)} | {sum(code in KILLED for code in codes.values())} | {scores[name]:.1%} |")
    for codes in modules.values():
        for name, code in codes.items():
            if code not in KILLED:
                print(f"{name} (exit code {code})")
    below = [name for name, score in scores.items() if score < chosen.least]
    if below:
        sys.exit(f"below {chosen.least:.0%}: {', '.join(below)}")


if __name__ == "__main__":
    main()

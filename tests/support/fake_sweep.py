"""`python -m tests.support.fake_sweep SPACE RESULTS TRIALS [NAME]`: the driver of `orchestrator.sweep`; no training."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from cpcnn_core.errors import CpcnnError
from orchestrator.process.streams import outlast
from orchestrator.records.location import located
from orchestrator.search.space import read
from orchestrator.tune.driver import run
from orchestrator.tune.plan import Plan
from orchestrator.views.progress import Progress


def main(space_file: str, results: str, trials: str, name: str = "fake") -> int:
    space = read(Path(space_file))
    plan = Plan(name, space, located(results), int(trials), trainer="tests.support.fakes:train")
    with Progress(Console(), space.objective, space.searched, total=plan.trials) as view:
        try:
            outcome = run(plan, view)
        except CpcnnError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return error.exit_code
    print(outcome)  # noqa: T201
    return 130 if outcome.interrupted else 0


if __name__ == "__main__":
    outlast()
    sys.exit(main(*sys.argv[1:]))

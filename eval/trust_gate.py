"""Does the gate stop reward hacking? Worlds whose reward simulator overrates five worthless items.

    python eval/trust_gate.py --out runs/trust --json trust.json

PPO is improved against an honest reward, one with an exploitable member, and one whose members all are, with and
without pessimism. Shown is the true value (click + 3 conversion, asked of the world) of the last checkpoint, which
would be deployed without a gate, and of what the gate deploys. Resumable: stages are kept under --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded

SEEDS = (0, 1, 2)


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/trust"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    from llmrec.studies.trust import run_trial

    run_trial(options.seeds, options.out, options.overrides, json_file=options.json)


if __name__ == "__main__":
    main()

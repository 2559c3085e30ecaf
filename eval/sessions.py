"""Does a policy that learned in sessions beat one-step reranking where users satiate and lose trust?

    python eval/sessions.py --out runs/sessions --seeds 1001 1002 --json sessions.json

Users of generated shop worlds with satiation and trust meet SFT, SFT's top 20 reranked by the reward simulator, and
PPO in sessions (train/recipes/session.yaml, trained on learned users under the same dynamics) with the same luck. The
claim is a paired interval above 0 of the true session value against the reranker. Resumable: finished stages are kept
under --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded

SEEDS = (1001, 1002, 1003, 1004)


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sessions"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--greedy", action="store_true", help="train a second policy with gamma 0")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    from llmrec.studies.sessions import run_session_study

    run_session_study(options.seeds, options.out, options.overrides, greedy=options.greedy, json_file=options.json)


if __name__ == "__main__":
    main()

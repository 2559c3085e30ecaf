"""Does PPO find what imitation cannot? The claim of the demo, on five generated worlds.

    python eval/demo_claim.py --out runs/claim --json claim.json

V is the true expected value (click + 3 conversion, asked of the world) of what is deployed deterministically: the top
item, and the mean over the top ten. Claim: (V_PPO - V_SFT) / (V* - V_SFT) >= 0.15 on both, with a t-interval over the
seeds above 0. With --click-only the reward is the click alone and NDCG@10 on held-out clicks must not be inferior.
Seeds 1000 to 1004 are used for nothing else. Resumable: finished stages are kept under --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded

SEEDS = (1000, 1001, 1002, 1003, 1004)


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/claim"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--click-only", action="store_true", help="reward = click; NDCG@10 must not be inferior")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    from llmrec.studies.claim import run_claim

    run_claim(options.seeds, options.out, options.overrides, click_only=options.click_only, json_file=options.json)


if __name__ == "__main__":
    main()

"""Does PPO find what imitation cannot? The claim of the demo, on five generated worlds.

    python eval/demo_claim.py --out runs/claim --json claim.json

V is the true expected value (click + 3 conversion, asked of the world) of what is deployed deterministically: the top
item, and the mean over the top ten. Claim: (V_PPO - V_SFT) / (V* - V_SFT) >= 0.15 on both, with a t-interval over the
seeds above 0. With --click-only the reward is the click alone and NDCG@10 on held-out clicks must not be inferior.
Seeds 1000 to 1004 are used for nothing else. Resumable: finished stages are kept under --out.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/claim", seeds=(1000, 1001, 1002, 1003, 1004))
    script.add_argument("--click-only", action="store_true", help="reward = click; NDCG@10 must not be inferior")
    script.run("llmrec.studies.claim:run_claim")

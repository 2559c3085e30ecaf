"""Does a policy that learned in sessions beat one-step reranking where users satiate and lose trust?

    python eval/sessions.py --out runs/sessions --seeds 1001 1002 --json sessions.json

Users of generated shop worlds with satiation and trust meet SFT, SFT's top 20 reranked by the reward simulator, and
PPO in sessions (train/recipes/session.yaml, trained on learned users under the same dynamics) with the same luck. The
claim is a paired interval above 0 of the true session value against the reranker. Resumable: finished stages are kept
under --out.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/sessions", seeds=(1001, 1002, 1003, 1004))
    script.add_argument("--gamma", type=float, help="train a second policy with this discount between turns")
    script.run("llmrec.studies.sessions:run_sessions")

"""Does the gate stop reward hacking? Worlds whose reward simulator overrates five worthless items.

    python eval/trust_gate.py --out runs/trust --json trust.json

PPO is improved against an honest reward, one with an exploitable member, and one whose members all are, with and
without pessimism. Shown is the true value (click + 3 conversion, asked of the world) of the last checkpoint, which
would be deployed without a gate, and of what the gate deploys. Resumable: stages are kept under --out.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    StudyScript(__doc__, out="runs/trust", seeds=(0, 1, 2)).run("llmrec.studies.trust:run_trust")

"""`accelerate launch train/reinforce.py --out RUN ...` is `llmrec run --algorithm reinforce --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "reinforce")

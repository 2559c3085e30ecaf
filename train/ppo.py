"""`accelerate launch train/ppo.py --out RUN ...` is `llmrec run --algorithm ppo --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "ppo")

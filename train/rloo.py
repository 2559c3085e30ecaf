"""`accelerate launch train/rloo.py --out RUN ...` is `llmrec run --algorithm rloo --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "rloo")

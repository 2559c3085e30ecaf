"""`accelerate launch train/rlhf.py --out RUN ...` is `llmrec run --algorithm rlhf --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "rlhf")

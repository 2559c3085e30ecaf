"""`accelerate launch train/grpo.py --out RUN ...` is `llmrec run --algorithm grpo --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "grpo")

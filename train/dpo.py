"""`accelerate launch train/dpo.py --out RUN ...` is `llmrec run --algorithm dpo --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "dpo")

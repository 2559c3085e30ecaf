"""`accelerate launch train/continued_sft.py ...` is `llmrec run --algorithm continued_sft ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "continued_sft")

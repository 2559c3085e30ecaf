"""`accelerate launch train/sft.py --out RUN ...` is `llmrec run --stage sft --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--stage", "sft")

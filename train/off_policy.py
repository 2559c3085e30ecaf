"""`accelerate launch train/off_policy.py --out RUN ...` is `llmrec run --algorithm off_policy --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "off_policy")

"""`accelerate launch train/sdpo.py --out RUN ...` is `llmrec run --algorithm sdpo --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "sdpo")

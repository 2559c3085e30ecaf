"""`accelerate launch train/tilted.py --out RUN ...` is `llmrec run --algorithm tilted --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "tilted")

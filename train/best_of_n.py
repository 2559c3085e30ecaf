"""`accelerate launch train/best_of_n.py --out RUN ...` is `llmrec run --algorithm best_of_n --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--algorithm", "best_of_n")

"""`accelerate launch train/simulator.py --out RUN ...` is `llmrec run --stage simulator --out RUN ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main("run", "--stage", "simulator")

"""`accelerate launch train/simulator.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.simulator import main

if __name__ == "__main__":
    main()

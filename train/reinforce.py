"""`accelerate launch train/reinforce.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.reinforce import main

if __name__ == "__main__":
    main()

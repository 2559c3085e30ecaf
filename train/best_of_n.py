"""`accelerate launch train/best_of_n.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.best_of_n import main

if __name__ == "__main__":
    main()

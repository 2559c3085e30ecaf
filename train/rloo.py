"""`accelerate launch train/rloo.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.rloo import main

if __name__ == "__main__":
    main()

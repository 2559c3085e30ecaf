"""`accelerate launch train/rlhf.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.rlhf import main

if __name__ == "__main__":
    main()

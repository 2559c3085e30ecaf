"""`accelerate launch train/off_policy.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.off_policy import main

if __name__ == "__main__":
    main()

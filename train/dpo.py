"""`accelerate launch train/dpo.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.dpo import main

if __name__ == "__main__":
    main()

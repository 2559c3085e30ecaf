"""`accelerate launch train/grpo.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.grpo import main

if __name__ == "__main__":
    main()

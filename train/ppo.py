"""`accelerate launch train/ppo.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.ppo import main

if __name__ == "__main__":
    main()

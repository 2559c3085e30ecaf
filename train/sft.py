"""`accelerate launch train/sft.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.sft import main

if __name__ == "__main__":
    main()

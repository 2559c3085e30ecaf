"""`accelerate launch train/sdpo.py --config train/recipes/FILE.yaml --out RUN`."""

from llmrec.train.sdpo import main

if __name__ == "__main__":
    main()

"""`python -m llmrec`, which is what launchers of several processes run: `accelerate launch -m llmrec run ...`."""

from llmrec.cli.main import main

if __name__ == "__main__":
    main()

"""`accelerate launch -m llmrec.train.sft --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_until


@guarded
def main() -> None:
    """Runs the main job up to and including the sft stage."""
    run_until("sft")


if __name__ == "__main__":
    main()

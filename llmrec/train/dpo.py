"""`accelerate launch -m llmrec.train.dpo --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_algorithm


@guarded
def main() -> None:
    """Runs the main job with DPO to its end."""
    run_algorithm("dpo")


if __name__ == "__main__":
    main()

"""`accelerate launch -m llmrec.train.grpo --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_algorithm


@guarded
def main() -> None:
    """Runs the main job with GRPO to its end."""
    run_algorithm("grpo")


if __name__ == "__main__":
    main()

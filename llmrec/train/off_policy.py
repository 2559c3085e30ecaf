"""`accelerate launch -m llmrec.train.off_policy --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_algorithm


@guarded
def main() -> None:
    """Runs the main job with off-policy learning to its end."""
    run_algorithm("off_policy")


if __name__ == "__main__":
    main()

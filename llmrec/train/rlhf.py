"""`accelerate launch -m llmrec.train.rlhf --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_algorithm


@guarded
def main() -> None:
    """Runs the main job with a reward model and PPO against it to its end."""
    run_algorithm("rlhf")


if __name__ == "__main__":
    main()

"""`accelerate launch -m llmrec.train.best_of_n --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_algorithm


@guarded
def main() -> None:
    """Runs the main job with best-of-n distillation to its end."""
    run_algorithm("best_of_n")


if __name__ == "__main__":
    main()

"""`accelerate launch -m llmrec.train.sdpo --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_algorithm


@guarded
def main() -> None:
    """Runs the main job with S-DPO to its end."""
    run_algorithm("sdpo")


if __name__ == "__main__":
    main()

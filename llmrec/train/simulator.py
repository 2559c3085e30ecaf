"""`accelerate launch -m llmrec.train.simulator --config FILE --out RUN`; see `llmrec.train.stages`."""

from llmrec.cli.guard import guarded
from llmrec.train.stages import run_until


@guarded
def main() -> None:
    """Runs the main job up to and including the simulator stage."""
    run_until("simulator")


if __name__ == "__main__":
    main()

"""Where classic agents are put beside a run: what its language models cost, and runs that are none."""

from __future__ import annotations

import pytest

from llmrec.config import RunConfig
from llmrec.errors import RunError
from llmrec.studies.classic.opening import language_costs, run_place
from tests.overrides import given


@pytest.mark.parametrize(
    ("overrides", "name", "drawn"),
    [
        (["ppo.steps=3", "ppo.prompts=5", "ppo.draws=7"], "PPO", 105.0),
        (
            ["algorithm=best_of_n", "best_of_n.rounds=2", "best_of_n.prompts=5", "best_of_n.draws=4"],
            "best-of-n",
            40.0,
        ),
        (["algorithm=dpo"], "DPO", 0.0),  # it learns from logged pairs
    ],
)
def test_costs_are_rows_and_draws_with_the_seconds_of_their_stages(overrides, name, drawn):
    config = RunConfig.read(None, given(*overrides, "sft.examples=11"))
    costs = language_costs(config, {"sft": 1.5, config.algorithm: 2.5})
    assert costs == {"SFT": (11.0, 1.5), name: (drawn, 2.5), f"{name} (last)": (drawn, 2.5)}


def test_a_folder_that_is_no_run_is_refused_and_nothing_is_made(tmp_path):
    with pytest.raises(RunError, match=r"config\.yaml does not exist; give the folder of a finished run"):
        run_place(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Simulators of a run are examined before anything is trained, and a judge that knows nobody is refused."""

import numpy as np
import pytest

from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from llmrec.pipeline.data import open_data
from llmrec.pipeline.exam import check_exam, examine_run, examined, require_judge, sentences
from llmrec.pipeline.simulation import Simulators
from llmrec.pipeline.work import Work
from llmrec.types import Prediction

WORLD = {"world.users": 150, "world.items": 60, "world.slates_per_user": 10, "evaluation.bootstrap": 200}
CONFIG = RunConfig.read(None, {**WORLD, "gate.exam_events": 400, "gate.slate": 5})


class Fixed:
    """Tables of P(click) and P(conversion | click) by user; one row for all is the same for everybody."""

    def __init__(self, click, conversion):
        self.click, self.conversion = click, conversion

    def predict_all(self, states):
        users = [str(state.user_id) for state in states]
        return Prediction(self.click(users), self.conversion(users))

    def predict(self, states, items_BK):
        found = self.predict_all(states)
        at = items_BK.clip(min=0)
        return Prediction(*(np.take_along_axis(p, at, axis=1) for p in (found.click_BK, found.conversion_BK)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = open_data(CONFIG, Work(tmp_path_factory.mktemp("data")))
    world = data.world
    everybody = data.dataset.users["user_id"].to_list()
    mean_N = world.expected_click_BN(everybody).mean(axis=0)
    same = Fixed(lambda users: np.tile(mean_N, (len(users), 1)), lambda users: np.full((len(users), 60), 0.1))
    return data, Simulators(Fixed(world.expected_click_BN, world.expected_conversion_BN), same, {})


def test_truth_passes_and_what_is_alike_for_everybody_is_refused(run, monkeypatch):
    data, simulators = run
    found = examine_run(CONFIG, data, simulators)
    truth, same = found["reward"], found["judge"]
    assert truth["verdict"] == "knows people"
    assert truth["personal"]["mean"] > same["personal"]["mean"] == 0
    assert set(truth["ndcg_of"]) == {"popularity", "covisitation"}
    # truth knows more than any state tells; the best list for all closes a part of the way only
    assert truth["informed_share"]["mean"] > 1 > same["informed_share"]["mean"]
    assert same["verdict"] == "popularity in disguise"
    assert "of the way from popularity to the informed optimum" in sentences(found)[1]
    with pytest.raises(ConfigError, match=r"gate\.exam=warn") as refused:
        require_judge(CONFIG, found)
    assert "simulator.judge_architecture" in str(refused.value)
    assert "simulator.blend" not in str(refused.value)  # that is for logs without impressions
    with pytest.raises(ConfigError, match=r"set simulator\.blend=true, choose another"):
        require_judge(CONFIG, found, logged=False)
    require_judge(RunConfig.read(None, {"gate.exam": "warn"}), found)
    require_judge(CONFIG, {"reward": same, "judge": truth})  # a reward is named, and not refused
    require_judge(CONFIG, found | {"judge": same | {"verdict": "undecided"}})


def test_an_examination_is_a_stage_and_old_runs_have_none(run, tmp_path, monkeypatch):
    data, simulators = run
    config = RunConfig.read(None, {**WORLD, "gate.exam": "warn", "gate.exam_events": 30, "gate.exam_beside": ()})
    monkeypatch.setattr("llmrec.pipeline.exam.stage_key", lambda folder: "simulator")
    monkeypatch.setattr("llmrec.pipeline.exam.informed_shares", lambda *_: {})
    found = examined(config, data, simulators, Work(tmp_path / "work"))
    assert found.exam["judge"]["events"] == 30
    monkeypatch.setattr("llmrec.pipeline.exam.examine_run", lambda *_: pytest.fail("it was done before"))
    assert examined(config, data, simulators, Work(tmp_path / "work")).exam == found.exam
    assert examined(config, data, simulators, Work(tmp_path / "other", finished_only=True)).exam == {}


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match=r"gate\.exam_events"):
        check_exam(RunConfig.read(None, {"gate.exam_events": 0}))
    with pytest.raises(ConfigError, match="gru4rec"):
        check_exam(RunConfig.read(None, {"gate.exam_beside": ("gru4rek",)}))

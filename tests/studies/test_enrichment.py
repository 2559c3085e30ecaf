"""Written profiles in a study: states by hand, what a model wrote on its users' rows, and the whole on a tiny world."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.files import read_json
from llmrec.studies.enrichment import (
    EVERYTHING,
    GIVEN,
    MIXED,
    MODEL,
    RULE,
    WORDS,
    _gains,
    _states,
    answer_of,
    enrichment,
)
from llmrec.studies.study import Pooled, SeedRows
from llmrec.types import Example, Interaction, State


def rows():
    past = tuple(Interaction(item, "click", item) for item in range(3))
    return Examples([Example(State("a", "given", past, time=9), 3)], [np.array([0, 1, 2])])


def test_a_state_holds_its_last_choices_and_is_known_by_its_id_only_where_it_holds_all():
    for h, items in ((0, ()), (1, (2,)), (2, (1, 2)), (EVERYTHING, (0, 1, 2))):
        state = _states(rows(), h, {"a": "written"})[0]
        assert tuple(i.item for i in state.history) == items
        assert state.user_id == ("a" if h == EVERYTHING else None)
        assert state.profile == "written"
        assert state.time == 9


def test_gains_leave_out_what_was_chosen_before():
    score_BN = np.array([[9.0, 8.0, 7.0, 1.0, 2.0, *[0.0] * 8]])
    assert _gains(score_BN, rows()).tolist() == pytest.approx([1 / np.log2(3)])


def test_what_a_model_wrote_is_compared_on_its_users_rows_alone():
    hs = ("0", "1", "5", "20", "all")
    everyone = {f"NDCG@10 h={h}": np.array([0.1, 0.2, 0.3, 0.4]) for h in hs}
    some = {f"NDCG@10 h={h}, model's users": np.array([0.1, 0.3]) for h in hs}
    better = {name: value + 0.5 for name, value in some.items()}
    sides = {f"{lead}{kind}": {**everyone, **some} for lead in (WORDS, MIXED) for kind in ("no profile", GIVEN, RULE)}
    sides |= {f"{lead}{MODEL}": better for lead in (WORDS, MIXED)}
    users = {name: list("abcd") for name in everyone} | {name: list("ac") for name in some}
    facts = {"rows": {"valid": 4, "test": 4, "users": 4, "drawn": 2}, "settings": {}, "writing": {}}
    answer = answer_of(Pooled([SeedRows(0, "hash", sides, users, facts)]))
    found = answer.figures["claims"][f"{WORDS}{MODEL} against {RULE}"]["NDCG@10 h=0"]
    assert found["mean"] == pytest.approx(0.5)
    assert answer.figures["claims"][f"{WORDS}{RULE} against {GIVEN}"]["NDCG@10 h=5"]["mean"] == 0.0
    assert len(answer.tables) == 3


def test_the_whole_on_a_tiny_world(tmp_path):
    found = enrichment(seeds=(0,), out=tmp_path, dataset="world", rows=15, json_file=tmp_path / "found.json")
    assert found["writing"][RULE][0]["grounded_before"] == 1.0
    assert found["writing"][RULE][0]["grounded_after"] == 1.0
    assert read_json(tmp_path / "found.json")["claims"]
    assert (tmp_path / "study.md").is_file()
    with pytest.raises(ConfigError, match="--source"):
        enrichment(seeds=(0,), out=tmp_path, dataset="movielens")

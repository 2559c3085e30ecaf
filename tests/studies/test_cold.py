"""Cold starts: rows by hand, one rule for all systems, and both questions from end to end in a tiny world."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.dataset.examples import Examples, History
from llmrec.errors import ConfigError, RequestError
from llmrec.files import read_json
from llmrec.pipeline.run import make_stage
from llmrec.pipeline.work import LastStage
from llmrec.simulator.log import Subset
from llmrec.studies.cold import cold_starts
from llmrec.studies.cold.items import AS_IS, NO_LM, both, joined, systems
from llmrec.studies.cold.parts import FLOOR, Asked, Part, Weighed, policy_part, said_by
from llmrec.studies.cold.setting import NANO, Setting
from llmrec.studies.cold.users import (
    EACH,
    FOR_ALL,
    GAP,
    INFORMED,
    REWARD,
    WORTH,
    cold_rows,
    in_first_session,
    informed_scores,
    known,
    mean_worth,
    worth_part,
)
from llmrec.studies.study import Pooled, SeedRows
from llmrec.types import Example, Interaction, State
from tests.baselines.test_baselines import LOG
from tests.baselines.test_baselines import make as make_dataset
from tests.overrides import given
from tests.policy.test_language_policy import STATES, N
from tests.policy.test_mixture import make

TINY = [
    "world.users=80",
    "world.items=30",
    "world.slates_per_user=4",
    "data.withheld.test=0.2",
    "model.nano_hidden=32",
    "model.nano_layers=1",
    "model.nano_vocabulary=400",
    "model.nano_pretrain_sequences=64",
    "text.max_tokens=64",
    "sft.examples=64",
    "sft.epochs=1",
]


def asked(features, targets, users="abcd"):
    rows = [Example(State(user), target) for user, target in zip(users, targets, strict=False)]
    x_BN = np.asarray(features, dtype=np.float32)
    return Asked(Examples(rows, [np.empty(0, dtype=np.int64)] * len(rows)), np.ones(x_BN.shape, bool), {"a": [x_BN]})


def test_gains_are_those_of_the_place_and_of_what_counts():
    found = asked([[3.0, 2.0, 1.0, 0.0]] * 2, [1, 3])
    gains = found.gains(found.features["a"][0])
    assert gains["NDCG@10"].tolist() == pytest.approx([1 / np.log2(3), 1 / np.log2(5)])
    assert gains["HR@10"].tolist() == [1.0, 1.0]
    among = found.gains(found.features["a"][0], np.array([False, True, False, True]))
    assert among["NDCG@10"].tolist() == pytest.approx([1.0, 1 / np.log2(3)])


def test_what_is_said_of_an_item_on_the_average_and_that_it_is_new_are_weighed():
    # the system says 5 of item 0 whatever the state, and 1 of what is then chosen; items 2 and 3 are new
    said = [[5.0, 1.0, 0.0, 0.0], [5.0, 0.0, 1.0, 0.0], [5.0, 0.0, 0.0, 1.0], [5.0, 1.0, 0.0, 0.0]]
    fit = asked(said * 25, [1, 2, 3, 1] * 25, users="abcd" * 25)
    new_N = np.array([0.0, 0.0, 1.0, 1.0], dtype=np.float32)
    weighed = Weighed.fit(["a"], fit, np.ones(100), [new_N])
    assert weighed.average["a"][0].tolist() == [5.0, 0.5, 0.25, 0.25]
    assert weighed.coefficients.shape == (3,)
    score_BN = weighed.score(fit)
    assert score_BN.argmax(1).tolist() == [1, 2, 3, 1] * 25, "by itself it puts item 0 first everywhere"


def test_every_part_stands_alone_and_with_the_others():
    parts = [Part(name, lambda states: []) for name in ("popularity", "content", "LM x")]
    assert systems(parts) == {
        "popularity": ("popularity",),
        "content": ("content",),
        "LM x": ("LM x",),
        NO_LM: ("popularity", "content"),
        "all with LM x": ("popularity", "content", "LM x"),
    }


def test_scores_become_features_by_what_they_are():
    from llmrec.baselines import Popularity

    data = make_dataset(LOG)
    log_BN, number_BN = said_by(Popularity().fit(data, data.events), [State(), State()])
    share = np.array([2, 2, 1, 0, 0]) / 5
    assert log_BN[1].tolist() == pytest.approx(np.log(share + FLOOR / 5).tolist(), abs=1e-5)
    assert number_BN.mean() == pytest.approx(0.0, abs=1e-6)
    assert number_BN.std() == pytest.approx(1.0, abs=1e-6)


def test_what_is_good_for_new_and_for_known_items_alike():
    rows = {"a": {"NDCG@10 new": np.array([0.2, 0.0]), "NDCG@10 known": np.array([0.3])}}
    rows |= {"b": {"NDCG@10 new": np.array([0.0, 0.0]), "NDCG@10 known": np.array([0.0])}}
    found = both(Pooled([SeedRows(0, "hash", rows)]))
    assert found["a"]["NDCG@10 of both"] == pytest.approx(2 * 0.1 * 0.3 / 0.4)
    assert found["b"]["NDCG@10 of both"] == 0.0


def test_a_list_says_pi_of_its_items_and_an_even_share_of_the_others():
    policy = make(0)
    asked = [*STATES, *STATES]
    whole_BN = policy_part("LM", policy).features(asked)[0]
    assert whole_BN[: len(STATES)] == pytest.approx(whole_BN[len(STATES) :])
    (all_BN,) = policy_part("LM", policy, listed=10 * N).features(asked)
    assert all_BN == pytest.approx(whole_BN, abs=1e-4)
    (some_BN,) = policy_part("LM", policy, listed=2).features(asked)
    assert np.exp(some_BN).sum(1) == pytest.approx(1.0, abs=1e-4)
    for whole_N, some_N in zip(whole_BN, some_BN, strict=True):
        best = np.argsort(-whole_N)[:2]
        assert some_N[best] == pytest.approx(whole_N[best], abs=1e-4)
        others = np.delete(some_N, best)
        assert others == pytest.approx(np.full(N - 2, others[0]))
        assert others.max() <= some_N[best].min()


def test_a_prompt_is_read_once(monkeypatch):
    policy = make(0)
    read = []
    recommend = policy.recommend
    monkeypatch.setattr(
        policy, "recommend", lambda states, k, **how: read.append(states) or recommend(states, k, **how)
    )
    policy_part("LM", policy, listed=1).features([STATES[0], STATES[1], STATES[0]])
    assert read == [[STATES[0], STATES[1]]]


def test_the_first_events_are_what_is_known():
    history = tuple(Interaction(item, "click", item) for item in range(5))
    rows = Examples([Example(State("a", "p", history, time=9), 7)], [np.array([0, 1])])
    for k in (0, 1, 3):
        (row,) = known(rows, k)
        assert row.state == State("a", "p", history[:k], time=9)
        assert row.target == 7
    assert [r.target for r in joined(rows, rows)] == [7, 7]


def test_a_first_session_ends_with_the_first_long_gap():
    def asked_at(*times, at):
        return Example(State("a", "p", tuple(Interaction(n, "click", t) for n, t in enumerate(times)), time=at), 7)

    assert in_first_session(asked_at(0, GAP, 2 * GAP, at=3 * GAP))
    assert not in_first_session(asked_at(0, GAP, 2 * GAP, at=3 * GAP + 1))
    assert not in_first_session(asked_at(0, GAP + 1, at=GAP + 2))
    assert not in_first_session(asked_at(at=5))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("cold")


def test_items_from_end_to_end(out, monkeypatch):
    monkeypatch.delenv("LLMREC_EMBEDDINGS", raising=False)
    options = {"seeds": [0], "out": out, "dataset": "world", "valid_rows": 40, "test_rows": 40}
    found = cold_starts("items", overrides=given(*TINY), **options)
    assert read_json(out / "study.json") == read_json(out / "study.json") | {"seeds": [0]}
    values = found["values"]
    assert values["popularity" + AS_IS]["NDCG@10 new"] < 0.1
    assert set(values) >= {"content", "sasrec-only-text", NANO, NANO + AS_IS, NO_LM, f"all with {NANO}"}
    assert f"{NANO} against content" in found["claims"]
    assert found["facts"][0]["withheld"]["items"] == {"valid": 3, "test": 6}
    assert "not told apart" in (out / "study.md").read_text() or "significantly" in (out / "study.md").read_text()
    assert (out / "study-claims.svg").is_file()
    kept = sorted((out / "world-0").glob("said-*/stage.json"))
    assert len(kept) >= 3 * 4
    before = [stage.stat().st_mtime_ns for stage in kept]
    again = cold_starts("items", overrides=given(*TINY), **options)
    assert again["values"] == values
    assert again["facts"][0]["settings"] == found["facts"][0]["settings"]
    assert [stage.stat().st_mtime_ns for stage in kept] == before, "nobody is asked twice"


@pytest.mark.slow
def test_users_from_end_to_end(out, monkeypatch):
    monkeypatch.delenv("LLMREC_EMBEDDINGS", raising=False)
    options = {"seeds": [0], "out": out, "dataset": "world", "valid_rows": 40, "test_rows": 40}
    setting = Setting.of(0, out, overrides=given(*TINY))
    trained = set(setting.data.split.train["user_id"])
    rows = cold_rows(setting, "test", 1000, least=3)
    users = [e.state.user_id for e in rows]
    assert not trained & set(users)
    assert max(users.count(user) for user in users) <= EACH
    first = cold_rows(setting, "test", 1000, least=0, first_session=True)
    assert all(row.state.history[-1].time + GAP >= row.state.time for row in first)
    found = cold_starts("users", overrides=given(*TINY), events=(0, 1, 3), **options)
    assert (out / "study-curves.svg").is_file()
    assert f"With the profile alone (k=0) {NANO}" in (out / "study.md").read_text()
    value = found["values"][NANO + AS_IS][f"{REWARD} k=3"]
    assert 0 < value < 4
    with pytest.raises(RequestError, match="must rise"):
        cold_starts("users", overrides=given(*TINY), events=(3, 1), **options)
    assert {f"{NANO}, no profile", "group-popularity", NO_LM, FOR_ALL, WORTH} <= set(found["values"])
    for k in (0, 1, 3):  # nobody who sees only the log can expect more; a little is left to chance
        worth = {side: own[f"{REWARD} k={k}"] for side, own in found["values"].items()}
        worth.pop(FOR_ALL)  # it knows what the users of this world like, which no log tells
        assert worth.pop(INFORMED) > max(worth.values()) - 0.02


def test_what_an_item_is_worth_to_all_is_the_mean_over_the_worlds_users(out):
    setting = Setting.of(0, out, overrides=given(*TINY))
    world, reward = setting.data.world, setting.config.reward
    users = world.dataset.users["user_id"].to_list()
    wanted = np.mean([world.value_BN([user], reward.click, reward.conversion)[0] for user in users], axis=0)
    np.testing.assert_allclose(mean_worth(world, reward), wanted)


def test_mean_rewards_are_those_of_what_was_shown(out, monkeypatch):
    """Two items are shown 10,000 times each: 20% and 10% are clicked, a quarter and none of that is bought."""
    setting = Setting.of(0, out, overrides=given(*TINY))
    click_M, bought_M = np.zeros(20_000), np.zeros(20_000)
    click_M[:2000] = click_M[10_000:11_000] = bought_M[:500] = 1
    log = Subset([State("a")], np.zeros(20_000, dtype=np.int64), np.repeat([0, 1], 10_000), click_M, bought_M)
    monkeypatch.setattr("llmrec.studies.cold.users.log_of", lambda *_: log)
    (found_BN,) = worth_part(setting).features([State("a"), State("b")])
    np.testing.assert_array_equal(found_BN[0], found_BN[1])
    weights = setting.config.reward
    bought = [0.2 * 0.25, 0.0]
    wanted = [weights.click * 0.2 + weights.conversion * bought[0], weights.click * 0.1]
    np.testing.assert_allclose(np.exp(found_BN[0, :2]), wanted, rtol=0.05)  # ten events of the mean of all are added


def test_what_can_be_known_is_told_of_the_log_up_to_the_kth_event(out):
    setting = Setting.of(0, out, overrides=given(*TINY))
    rows = cold_rows(setting, "test", 12, least=3)
    world, reward = setting.data.world, setting.config.reward
    for k in (0, 2):
        score_BN = informed_scores(world, rows, k, reward)
        assert score_BN.shape == (len(rows), 30)
        for row, example in list(enumerate(rows))[:3]:
            user, own = example.state.user_id, example.state.history
            until = own[k - 1].time if k else -1
            state = History(world.dataset, 100).state(user, until + 1 if k else own[0].time)
            told = world.informed_optimum([state], 5, reward.click, reward.conversion, particles=128, least=32)
            assert np.argsort(-score_BN[row], kind="stable")[:5].tolist() == told.items_BK[0].tolist()
            assert len(state.history) >= k
            assert all(choice.time <= until for choice in state.history)


@pytest.mark.slow
def test_a_run_that_ended_after_sft_is_opened_by_its_configuration(out, tmp_path):
    text = "\n".join(f"# {line}" for line in TINY)
    (tmp_path / "run.yaml").write_text(text + "\nseed: 0\n")
    from llmrec.config import RunConfig

    overrides = given(*TINY)
    make_stage(RunConfig.read(tmp_path / "run.yaml", overrides), tmp_path / "run", LastStage.SFT)
    which = {"run": tmp_path / "run", "config_file": tmp_path / "run.yaml", "overrides": overrides}
    setting = Setting.of(0, tmp_path / "study", nano=False, **which)
    assert [part.name.startswith("LM ") for part in setting.models] == [True]
    states = [State(), State("x")]
    pi_BN, likelihood_BN = setting.models[0].features(states)
    assert np.exp(pi_BN).sum(1) == pytest.approx([1.0, 1.0], abs=1e-4)
    assert pi_BN.shape == likelihood_BN.shape == (2, 30)
    whole = [line for line in TINY if "withheld" not in line]
    make_stage(RunConfig.read(tmp_path / "run.yaml", given(*whole)), tmp_path / "whole", LastStage.SFT)
    with pytest.raises(ConfigError, match="withholds no items"):
        Setting.of(
            0, tmp_path / "s", run=tmp_path / "whole", config_file=tmp_path / "run.yaml", overrides=given(*whole)
        )


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must be title"):
        Setting.of(0, tmp_path, overrides=given(*TINY, "identifiers.scheme=atomic"))
    with pytest.raises(ConfigError, match="no item is new"):
        Setting.of(0, tmp_path, overrides=given(*TINY, "data.withheld.test=0"))
    (tmp_path / "run.yaml").write_text("data:\n  dataset: movielens\n  withheld:\n    test: 0.1\n")
    told = {"run": tmp_path / "run", "config_file": tmp_path / "run.yaml"}
    with pytest.raises(ConfigError, match="needs a source; give --source"):
        Setting.of(0, tmp_path, **told)
    with pytest.raises(ConfigError, match="/nowhere does not exist"):
        Setting.of(0, tmp_path, source="/nowhere", **told)

"""The neural recommenders learn planted worlds, repeat themselves for a seed and answer every state."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from llmrec.baselines.neural.recommenders import NCF, GRU4Rec, NeuralRecommender, SASRec, text_parts
from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, NeuralSettings, SASRecSettings
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.types import Example, Interaction
from tests.baselines.neural_world import chain, make_dataset, state

TINY: dict[str, Any] = {"hidden": 8, "history": 4, "epochs": 2, "batch_size": 64, "n_threads": 1}
MAKE: dict[str, tuple[type[NeuralRecommender[Any]], type[NeuralSettings]]] = {
    "sasrec": (SASRec, SASRecSettings),
    "gru4rec": (GRU4Rec, GRU4RecSettings),
    "ncf": (NCF, NCFSettings),
}


def make(name: str, seed: int = 0, **values: Any) -> NeuralRecommender[Any]:
    kind, settings = MAKE[name]
    return kind(settings(**{**TINY, **values}), seed=seed)  # type: ignore[call-arg]


def small(repeat: Any = "allow") -> Any:
    rng = np.random.default_rng(0)
    return make_dataset(rng.integers(0, 12, size=(20, 6)).tolist(), 12, repeat=repeat)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_next_item_of_a_planted_chain_is_found(name: str, order: int) -> None:
    rng = np.random.default_rng(order)
    n_items = 20 if order == 1 else 6
    sequences, table = chain(order, n_items, 150, 12, rng)
    data = make_dataset(sequences, n_items)
    values = {"hidden": 32, "epochs": 40, "dropout": 0.0, "learning_rate": 0.01, "batch_size": 256}
    if name == "sasrec":
        values |= {"learning_rate": 0.003, "batch_size": 64}
    model = make(name, valid_fraction=0.0, **values).fit(data, data.events)
    pairs = rng.integers(0, n_items, size=(100, 2))
    known = {tuple(s[at : at + order]) for s in sequences for at in range(len(s) - order)}
    asked = [tuple(pair[-order:].tolist()) for pair in pairs if tuple(pair[-order:].tolist()) in known]
    assert len(asked) > 60
    hits = [
        s.items_K[0] == table[last]
        for s, last in zip(model.recommend([state(*a) for a in asked], 1), asked, strict=True)
    ]
    assert np.mean(hits) > 0.9


def test_ncf_finds_the_cluster_of_a_user_it_has_never_seen() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(10)[:6] + 10 * (user % 2) for user in range(120)]
    data = make_dataset([s.tolist() for s in sequences], 20, repeat="exclude")
    values = {"hidden": 16, "epochs": 30, "learning_rate": 0.01, "mlp": (16,), "valid_fraction": 0.0}
    model = make("ncf", **values).fit(data, data.events)
    for low in (0, 10):
        slate = model.recommend([state(low, low + 1, low + 2)], 5)[0]
        assert all(low <= item < low + 10 for item in slate.items_K)


@pytest.mark.parametrize(
    ("name", "more"), [("sasrec", {}), ("sasrec", {"text_dims": 4}), ("gru4rec", {}), ("ncf", {})]
)
def test_a_network_that_was_written_answers_as_the_one_that_was_trained(name: str, more: Any, tmp_path: Any) -> None:
    data = small("exclude")
    # with users and times, so that what training says of them is known again too
    states = [state(), state(1, 2), dataclasses.replace(state(3), user_id="u0003", time=4)]
    first = make(name, seed=3, **more).fit(data, data.events)
    first.save(tmp_path)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = make(name, seed=3, **more).load(tmp_path, data, data.events)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(again.score(states), first.score(states))
    assert again.recommend(states, 5) == first.recommend(states, 5)
    assert (again.name, again.record) == (first.name, first.record)


def test_what_is_no_such_network_is_refused(tmp_path: Any) -> None:
    data = small()
    with pytest.raises(RequestError, match="not fitted"):
        make("gru4rec").save(tmp_path)
    make("gru4rec").fit(data, data.events).save(tmp_path)
    for other in (make("gru4rec", hidden=16), make("sasrec")):
        with pytest.raises(DataError, match=f"holds no network of {other.name} with these settings; remove .* anew"):
            other.load(tmp_path, data, data.events)
    (tmp_path / "network.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="holds no network of gru4rec"):
        make("gru4rec").load(tmp_path, data, data.events)


@pytest.mark.parametrize("name", MAKE)
def test_a_seed_decides_everything_and_the_global_stream_is_left_alone(name: str) -> None:
    data = small()
    states = [state(), state(1, 2), state(3)]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = make(name, seed=3).fit(data, data.events).score(states)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert np.array_equal(make(name, seed=3).fit(data, data.events).score(states), first)
    assert not np.array_equal(make(name, seed=4).fit(data, data.events).score(states), first)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("repeat", ["allow", "exclude"])
def test_every_state_is_answered(name: str, repeat: Any) -> None:
    data = small(repeat)
    model = make(name).fit(data, data.events)
    states = [state(), state(*[7] * 9), state(*range(11)), dataclasses.replace(state(2), user_id="never seen")]
    scores = model.score(states)
    assert scores.shape == (4, 12)
    assert np.isfinite(scores).all()
    slates = model.recommend(states, 12)
    assert [len(s.items_K) for s in slates] == ([12] * 4 if repeat == "allow" else [12, 11, 1, 11])
    assert model.score([]).shape == (0, 12)


@pytest.mark.parametrize("name", MAKE)
def test_a_catalogue_of_one_item(name: str) -> None:
    data = make_dataset([[0, 0, 0], [0, 0]], 1)
    assert make(name).fit(data, data.events).recommend([state(0)], 1)[0].items_K == (0,)


def test_the_order_of_equal_times_in_the_table_does_not_matter_to_what_can_be_learnt() -> None:
    # Two items of one time follow a third: whatever the table's order, both are equally likely after it.
    times = [[0, 1, 1]] * 240
    data = make_dataset([[0, 1, 2]] * 240, 3, times=times)
    values = {"epochs": 120, "learning_rate": 0.01, "dropout": 0.0, "valid_fraction": 0.0, "batch_size": 720}
    model = make("sasrec", **values).fit(data, data.events)
    chances = np.exp(model.score([state(0)])[0])
    assert chances[1] == pytest.approx(chances[2], abs=0.12)
    assert chances[0] < 0.1


def test_early_stopping_keeps_the_best_epoch_and_refits_on_all_events() -> None:
    rng = np.random.default_rng(0)
    sequences, _ = chain(1, 12, 60, 8, rng)
    data = make_dataset(sequences, 12)
    values = {"epochs": 12, "patience": 2, "learning_rate": 0.02, "valid_fraction": 0.25}
    model = make("sasrec", **values).fit(data, data.events)
    found = model.record
    best = int(np.argmax(found.valid_ndcg)) + 1
    assert found.kept == best
    assert len(found.valid_ndcg) == min(12, best + 2)
    assert found.stopped == ("patience" if best + 2 <= 12 else "epochs")
    assert found.refitted
    whole = make("sasrec", epochs=best, learning_rate=0.02, valid_fraction=0.0).fit(data, data.events)
    assert np.array_equal(whole.score([state(1)]), model.score([state(1)]))
    part = make("sasrec", refit=False, **values).fit(data, data.events)
    assert not part.record.refitted
    earlier = data.events.filter(pl.col("time") < 6)
    same = make("sasrec", epochs=best, learning_rate=0.02, valid_fraction=0.0).fit(data, earlier)
    assert np.array_equal(same.score([state(1)]), part.score([state(1)]))


def test_fitting_until_given_examples_are_ranked_best() -> None:
    rng = np.random.default_rng(0)
    sequences, _ = chain(1, 12, 60, 8, rng)
    data = make_dataset(sequences, 12, repeat="exclude")
    valid = [Example(state(*path[:at]), path[at]) for path in sequences for at in (1, 2) if path[at] not in path[:at]]
    model = make("gru4rec", epochs=6, patience=6, learning_rate=0.02).fit_until(data, data.events, valid)
    found = model.record
    assert (found.stopped, len(found.valid_ndcg), found.refitted) == ("epochs", 6, False)
    assert found.kept == int(np.argmax(found.valid_ndcg)) + 1
    slates = model.recommend([e.state for e in valid], 10)
    again = ranking_metrics(slates, [e.target for e in valid], k=(10,)).means["NDCG@10"]
    assert again == pytest.approx(max(found.valid_ndcg), abs=1e-9)
    whole = make("gru4rec", epochs=found.kept, learning_rate=0.02, valid_fraction=0.0).fit(data, data.events)
    assert np.array_equal(whole.score([state(1)]), model.score([state(1)]))
    with pytest.raises(DataError, match="needs at least one"):
        make("gru4rec").fit_until(data, data.events, [])


def test_a_state_is_read_with_what_training_says_of_its_user_before_it() -> None:
    data = small()
    model = make("sasrec", history=9).fit(data, data.events)
    first = [data.item_index[i] for i in data.events.filter(pl.col("user_id") == "u0003")["item_id"]]
    whole, short = state(*first[:4]), state(first[3])
    assert len(set(first[:4])) == 4
    known = dataclasses.replace(short, user_id="u0003", time=4)
    assert np.array_equal(model.score([known]), model.score([whole]))
    assert not np.array_equal(model.score([short]), model.score([whole]))
    shown = dataclasses.replace(whole, session=(Interaction(7, "impression", 9), Interaction(8, "click", 9)))
    clicked = state(*first[:4], 8)
    assert np.array_equal(model.score([shown]), model.score([clicked]))


def test_training_ends_with_its_budget_and_says_so() -> None:
    data = small()
    model = make("sasrec", epochs=10**6, patience=10**6, budget_seconds=0.5).fit(data, data.events)
    assert model.record.stopped == "budget"
    assert not model.record.refitted
    assert 0.2 < model.record.seconds < 10
    assert 1 <= model.record.kept <= len(model.record.train_loss) < 10**6
    assert np.isfinite(model.score([state(1)])).all()
    least = make("sasrec", valid_fraction=0.0, budget_seconds=1e-9).fit(data, data.events).record
    assert (least.stopped, least.kept) == ("budget", 1)


def test_threads_are_set_while_it_works_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    data = small()
    model = make("gru4rec", n_threads=3).fit(data, data.events)
    assert asked == [3, torch.get_num_threads()]
    model.score([state(1)])
    assert asked == [3, torch.get_num_threads()] * 2


def test_text_lets_an_item_without_events_be_found() -> None:
    titles = ["oak table", "oak chair", "oak shelf", "tin kettle", "tin spoon", "tin pot"]
    data = make_dataset([[0, 1], [1, 0], [3, 4], [4, 3]] * 20, 6, titles=titles)
    values = {"hidden": 16, "epochs": 30, "learning_rate": 0.01, "dropout": 0.0, "valid_fraction": 0.0}
    model = make("sasrec", text_dims=4, weight_decay=1.0, **values).fit(data, data.events)
    scores = model.score([state(0), state(3)])
    assert scores[0, 2] > scores[0, 5]
    assert scores[1, 5] > scores[1, 2]


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_items_that_are_their_texts_are_ranked_without_events_and_training_does_not_name_them(name: str) -> None:
    titles = ["oak table", "oak chair", "oak shelf", "tin kettle", "tin spoon", "tin pot"]
    data = make_dataset([[0, 1], [1, 0], [3, 4], [4, 3]] * 20, 6, titles=titles)
    values = {"hidden": 16, "epochs": 40, "learning_rate": 0.01, "dropout": 0.0, "valid_fraction": 0.0}
    model = make(name, text_dims=4, ids=False, **values).fit(data, data.events)
    assert model.name == f"{name}-only-text"
    scores = model.score([state(0), state(3)])
    assert np.isfinite(scores).all()
    assert np.exp(scores).sum(1) == pytest.approx(1.0)
    # new ones stand with what they are like, before all that they are not like
    assert scores[0, 2] > max(scores[0, [3, 4, 5]])
    assert scores[1, 5] > max(scores[1, [0, 1, 2]])
    net: Any = model.net
    assert {n for n, _ in net.named_parameters()} & {"bias_N"} == set()
    assert net.table.weight.shape[0] == 1
    net.train()
    logits = net.logits(torch.zeros(1, 16))
    assert torch.isinf(logits[0]).tolist() == [False, False, True, False, False, True]
    with pytest.raises(ConfigError, match=r"'ids' .* true where text_dims is 0"):
        make(name, ids=False)
    with pytest.raises(ConfigError, match=r"'ids' .* unless loss is softmax"):
        make(name, ids=False, text_dims=4, loss="bce")


def test_sentences_as_item_texts_need_a_model_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_EMBEDDINGS", raising=False)
    data = make_dataset([[0, 1]] * 4, 4)
    with pytest.raises(ConfigError, match="LLMREC_EMBEDDINGS"):
        make("sasrec", text_dims=4, vectors="sentences").fit(data, data.events)


def test_text_parts_have_unit_length_and_fill_up_with_zeros() -> None:
    data = make_dataset([[0, 1]], 4, titles=["red red", "red blue", "blue", "moon"])
    parts = text_parts(data, 8, 0).numpy()
    assert parts.shape == (4, 8)
    assert np.linalg.norm(parts[:3], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert not parts[3].any()  # its only word stands nowhere else
    alone = make_dataset([[0, 1]], 2, titles=["a1", "b2"])
    assert not text_parts(alone, 3, 0).any()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sasrec", {"hidden": 0}, r"'hidden' .* is 0; it must be a whole number from 1 on\.$"),
        ("sasrec", {"heads": 3}, r"'heads' .* a divisor of hidden \(8\)"),
        ("sasrec", {"dropout": 1.0}, "'dropout' .* at least 0 and below 1"),
        ("sasrec", {"loss": "hinge"}, "'loss' .* softmax or bce"),
        ("sasrec", {"text_dims": -1}, "'text_dims'"),
        ("gru4rec", {"layers": 0}, "'layers'"),
        ("gru4rec", {"learning_rate": float("nan")}, "'learning_rate' .* above 0"),
        ("gru4rec", {"budget_seconds": 0}, "'budget_seconds'"),
        ("ncf", {"loss": "softmax"}, "'loss' .* must be bce"),
        ("ncf", {"mlp": ()}, "'mlp'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, **values)


def test_clear_errors() -> None:
    data = small()
    with pytest.raises(RequestError, match="not fitted"):
        make("ncf").score([state()])
    with pytest.raises(DataError, match="no click to train sasrec on"):
        make("sasrec").fit(data, data.events.filter(pl.col("user_id") == "nobody"))
    with pytest.raises(DataError, match="not finite in epoch 1; lower its learning_rate"):
        make("sasrec", learning_rate=1e30).fit(data, data.events)
    with pytest.raises(RequestError, match="from 0 to 11"):
        make("ncf").fit(data, data.events).score([state(12)])

"""Every scenario plants what docs/world.md says, and breaks the naive learner that it is there to break.

Naive learners: "popular" shows what the log has most clicks of, "clicks" what has the greatest true P(click).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmrec.config import ScenarioSettings, WorldConfig
from llmrec.dataset.world import World, generate_world
from llmrec.dataset.world.scenario import DAY, END, START, Scenario
from llmrec.dataset.world.slates import CellPolicy, SlateSampler, contenders
from llmrec.dataset.world.truth import WorldParameters, draw_truth, logging_policy_BN
from llmrec.errors import ConfigError
from llmrec.text.escape import clean_text
from llmrec.types import Item

K = 10
FROZEN = {
    WorldConfig(users=200, slates_per_user=3): (
        1,
        "7ab726183829019b9b3749c20ed40e92c9b6356f64f695cadb3f7cb7d6778086",
    ),
    WorldConfig(
        domain="film", language="zh", users=60, items=120, slates_per_user=4, slate_size=5, position_bias=0.7
    ): (7, "6f6945b2833bba34732d1f132e733b4fabf49860f981109bb651f1937e4e841d"),
    WorldConfig(): (1, "b800aae71985e1e0b4e38981820e3434ca67bf5fe9aefc6fa9959237f31c2bdb"),
}


def _world(kind: str, seed: int = 21, **options: float) -> World:
    scenario = ScenarioSettings(kind=kind, **options)  # type: ignore[arg-type]
    return generate_world(WorldConfig(users=800, slates_per_user=6, scenario=scenario), seed)


def _users(world: World) -> list[str]:
    return world.dataset.users["user_id"].to_list()


def _counts(world: World, kind: str, low: float = 0, high: float = 90) -> np.ndarray:
    """Events of a kind by item, from day `low` to day `high`."""
    time = pl.col("time")
    events = world.dataset.events.filter(
        pl.col("kind") == kind, time >= START + low * DAY, time < START + high * DAY + DAY * (high == 90)
    )
    rows = events["item_id"].replace_strict(world.dataset.item_index, return_dtype=pl.Int64).to_numpy()
    return np.bincount(rows, minlength=world.dataset.n_items)


def _top(score: np.ndarray) -> np.ndarray:
    return np.argsort(-score, kind="stable")[:K]


def _value(world: World, items: np.ndarray, time: int = END) -> float:
    users = _users(world)
    return float(world.value_of_BK(users, np.tile(items, (len(users), 1)), time=time).mean())


@pytest.mark.parametrize(("config", "frozen"), FROZEN.items())
def test_worlds_without_a_scenario_are_what_they_always_were(config: WorldConfig, frozen: tuple[int, str]) -> None:
    seed, content_hash = frozen
    assert generate_world(config, seed).dataset.manifest.content_hash == content_hash


@pytest.mark.parametrize("config", FROZEN)
def test_worlds_are_the_same_on_every_processor(config: WorldConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors with AVX-512 compute exp, log and the like to another last digit than those without."""
    random = np.random.default_rng(0)

    def one_digit_off(plain: np.ufunc) -> Callable[..., np.ndarray]:
        def called(*values: Any, **options: Any) -> np.ndarray:
            exact = np.asarray(plain(*values, **options))
            beside = np.nextafter(exact, random.choice([-np.inf, np.inf], size=exact.shape))
            return np.where(random.random(exact.shape) < 0.5, exact, beside)

        return called

    for name in ("exp", "log", "log1p", "power", "cos"):
        monkeypatch.setattr(np, name, one_digit_off(getattr(np, name)))
    seed, content_hash = FROZEN[config]
    assert generate_world(config, seed).dataset.manifest.content_hash == content_hash


def test_cold_start_items_and_users() -> None:
    """New items are better and were never shown before the launch, so the popular ones hold none of them."""
    world = _world("cold-start", day=60.0)
    new = world.scenario.item_N
    assert new.sum() == 60
    assert _counts(world, "impression", 0, 60)[new].sum() == 0
    assert _counts(world, "impression", 60, 90)[new].sum() > 0
    popular = _top(_counts(world, "click", 0, 60))
    assert not new[popular].any()
    best = world.optimum(_users(world), K)
    assert new[best.items_BK].mean() > 1.5 * new.mean()  # the optimum wants them
    assert best.value_BK.mean() > 2 * _value(world, popular)
    late = {user for user, cold in zip(_users(world), world.scenario.user_U, strict=True) if cold}
    assert len(late) == 160
    first = world.dataset.events.group_by("user_id").agg(pl.col("time").min())
    assert first.filter(pl.col("user_id").is_in(late))["time"].min() >= START + 60 * DAY
    profiles = world.dataset.users.filter(pl.col("user_id").is_in(late))["profile"]
    assert (profiles == "").all()
    shown = world.dataset.events.filter(pl.col("kind") == "impression")
    assert shown["propensity"].is_between(0, 1, closed="right").all()


def test_popularity_feedback_loop() -> None:
    """What was shown is shown more: exposure concentrates, and counts of clicks tell of luck more than of liking."""

    def gini(counts: np.ndarray) -> float:
        ordered = np.sort(counts)
        place = np.arange(1, ordered.size + 1)
        return float((2 * place - ordered.size - 1) @ ordered / (ordered.size * ordered.sum()))

    plain, loop = _world("none"), _world("popularity-loop")
    early, late = (gini(_counts(loop, "impression", low, low + 15)) for low in (0, 75))
    assert late > early + 0.05
    assert abs(gini(_counts(plain, "impression", 75, 90)) - gini(_counts(plain, "impression", 0, 15))) < 0.03
    liking = {w: w.expected_click_BN(_users(w)).mean(axis=0) for w in (plain, loop)}

    def popular(world: World) -> float:
        """Share of the best possible P(click) of one slate for all that the most clicked items reach."""
        own = liking[world]
        return float(own[_top(_counts(world, "click"))].mean() / own[_top(own)].mean())

    assert popular(plain) > 0.9
    assert popular(loop) < 0.75
    shown, clicks = _counts(loop, "impression"), _counts(loop, "click")
    rate = np.where(shown >= 60, clicks / np.maximum(shown, 1), 0)
    assert liking[loop][_top(rate)].mean() > 1.2 * liking[loop][_top(clicks)].mean()  # dividing by exposure mends it


def test_clickbait() -> None:
    """Bait is clicked more and hardly ever bought, so whoever maximises clicks shows bait and earns little."""
    world = _world("clickbait")
    bait, users = world.scenario.item_N, _users(world)
    click, buy = world.expected_click_BN(users), world.expected_conversion_BN(users)
    assert click[:, bait].mean() > 2 * click[:, ~bait].mean()
    assert buy[:, bait].mean() < 0.2 * buy[:, ~bait].mean()
    chosen = np.argsort(-click, axis=1)[:, :K]
    assert bait[chosen].mean() > 0.8
    assert bait[_top(_counts(world, "click"))].mean() > 0.8
    greedy, best = world.value_of_BK(users, chosen).mean(), world.optimum(users, K)
    assert greedy < 0.8 * best.value_BK.mean()
    bought = click * buy
    sold, most = (np.take_along_axis(bought, items, axis=1).mean() for items in (chosen, best.items_BK))
    assert sold < 0.3 * most
    assert _value(world, _top(_counts(world, "click"))) < 0.65 * best.value_BK.mean()
    assert bait[best.items_BK].mean() < 0.6


def test_seasonality() -> None:
    """A topic's clicks follow its season; what was popular half a turn ago is out of season now."""
    world = _world("seasonality", period=60.0)
    topic, phase = world.truth.topic_N, world.scenario.phase_T
    days = np.arange(0, 90, 5)
    rate = np.zeros((days.size, 12))
    for row, day in enumerate(days):
        clicks, shown = _counts(world, "click", day, day + 5), _counts(world, "impression", day, day + 5)
        rate[row] = np.bincount(topic, clicks, 12) / np.maximum(np.bincount(topic, shown, 12), 1)
    wave = np.cos(2 * np.pi * ((days[:, None] + 2.5) / 60 - phase))
    assert np.corrcoef(wave.ravel(), rate.ravel())[0, 1] > 0.7
    then, now = START + 15 * DAY, START + 45 * DAY
    popular = _top(_counts(world, "click", 8, 22))
    assert _value(world, popular, then) > 1.5 * _value(world, np.arange(300), then)
    assert _value(world, popular, now) < _value(world, np.arange(300), now)  # worse than showing anything


def test_demand_shift() -> None:
    world = _world("shift", day=45.0)
    before = _top(_counts(world, "click", 0, 45))
    everything = np.arange(300)
    assert _value(world, before, START) > 1.2 * _value(world, everything, START)
    drop = _value(world, before) / _value(world, before, START)
    assert drop < 0.5
    after = _top(_counts(world, "click", 45, 90))
    assert _value(world, after) > 1.5 * _value(world, before)
    users = _users(world)[:50]
    np.testing.assert_array_equal(world.expected_click_BN(users, START), world.expected_click_BN(users, START + 1))
    assert (world.expected_click_BN(users, END) != world.expected_click_BN(users, START)).all()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_adversarial_text(language: str) -> None:
    """Hostile titles hold what chat formats obey, rendered they do not; and a matcher of words falls for them."""
    scenario = ScenarioSettings(kind="adversarial-text")
    world = generate_world(WorldConfig(language=language, users=300, scenario=scenario), 4)  # type: ignore[arg-type]
    hostile = world.scenario.item_N
    markers = ("<|", "[INST]", "<<SYS>>", "</s>", "###", "\u2028", "\u200b")
    for row, item in enumerate(world.dataset.item_list):
        assert any(m in item.title for m in markers) == hostile[row]
        for text in (item.title, item.description):
            clean = clean_text(text, 400)
            assert not any(m in clean for m in markers)
            assert not any(c in clean for c in "<>\n\r\x00")
            assert clean.isprintable()
    assert world.dataset.items["title"].n_unique() == 300
    quality = world.truth.quality_N
    assert quality[hostile].mean() < quality[~hostile].mean() - 1

    names = list(dict.fromkeys(c[0] for c in world.dataset.items["categories"]))
    asked = [{n for n in names if n in p} for p in world.dataset.users["profile"]]
    items = world.dataset.item_list

    def words(item: Item) -> str:
        return f"{item.title} {item.description}"

    told = [row for row, wanted in enumerate(asked) if wanted][:100]
    hits = np.array([[sum(n in words(item) for n in asked[row]) for item in items] for row in told])
    chosen = np.argsort(-(hits + 1e-3 * np.random.default_rng(0).random(hits.shape)), axis=1)[:, :K]
    assert hostile[chosen].mean() > 1.8 * hostile.mean()
    users = [_users(world)[row] for row in told]
    fair = np.where(hostile, -1, hits)
    fairly = np.argsort(-(fair + 1e-3 * np.random.default_rng(0).random(hits.shape)), axis=1)[:, :K]
    assert world.value_of_BK(users, chosen).mean() < world.value_of_BK(users, fairly).mean()


@pytest.mark.parametrize("kind", ["cold-start", "popularity-loop", "seasonality", "adversarial-text"])
def test_scenarios_repeat_and_are_saved(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = WorldConfig(users=20, items=30, scenario=ScenarioSettings(kind=kind))  # type: ignore[arg-type]
    world, again = generate_world(config, 5), generate_world(config, 5)
    assert world.dataset.manifest.content_hash == again.dataset.manifest.content_hash
    folder = tmp_path_factory.mktemp("world") / "w"
    world.save(folder)
    found = World.load(folder)
    assert found.config == config
    np.testing.assert_array_equal(found.scenario.item_N, world.scenario.item_N)
    np.testing.assert_array_equal(found.value_BN(_users(world)), world.value_BN(_users(world)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "flood"}, "There is no scenario 'flood'; choose one of none, cold-start"),
        ({"kind": "shift", "day": 90.0}, "world.scenario.day"),
        ({"kind": "clickbait", "share": 1.0}, "world.scenario.share"),
        ({"kind": "clickbait", "strength": -1.0}, "world.scenario.strength"),
        ({"kind": "seasonality", "period": 0.0}, "world.scenario.period"),
        ({"kind": "cold-start", "share": 0.9}, "leaves 3 items before the launch"),
    ],
)
def test_bad_scenarios(options: dict[str, object], told: str) -> None:
    scenario = ScenarioSettings(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=told):
        generate_world(WorldConfig(users=3, items=30, scenario=scenario), 0)


def test_drawing_by_cells_is_the_same_policy() -> None:
    """The mass of every item is that of the policy written out, and draws follow it."""
    parameters, truth = WorldParameters(), draw_truth(6, 130, WorldParameters(), 2)
    tilt = np.where(np.arange(130) % 7 == 0, -np.inf, np.linspace(-1, 1, 130))
    for tilted in (None, tilt):
        cells = CellPolicy.of(truth, parameters, tilted)
        users = np.arange(6)
        cell_BC = cells.of_users(truth, parameters, users)
        mass = cells.mass(cell_BC, users[:, None], np.tile(np.arange(130), (6, 1)))
        np.testing.assert_allclose(mass, logging_policy_BN(truth, parameters, users, tilted), rtol=1e-10, atol=1e-15)
        sampler = SlateSampler(truth, parameters, tilted, dense=False)
        drawn, propensity = sampler.draw(np.random.default_rng(0), np.repeat(users, 20_000), 2)
        assert (drawn[:, 0] != drawn[:, 1]).all()
        for user in range(6):
            first = np.bincount(drawn[user * 20_000 : (user + 1) * 20_000, 0], minlength=130) / 20_000
            assert np.abs(first - mass[user]).max() < 5 * np.sqrt(mass[user].max() / 20_000)
            assert not first[mass[user] == 0].any()
        row = 123
        p, q = mass[row // 20_000, drawn[row]]
        np.testing.assert_allclose(propensity[row], [p, q / (1 - p)])


def test_contenders_hold_the_best_of_everybody() -> None:
    world = generate_world(WorldConfig(users=300, items=2_000, slates_per_user=1), 3)
    few = contenders(world.truth, 5)
    assert few.size < 1_500
    best = np.argsort(-world.value_BN(_users(world)), axis=1)[:, :5]
    assert np.isin(best, few).all()
    assert np.isin(np.argsort(-world.value_BN(_users(world), 0.0, 1.0), axis=1)[:, :5], few).all()


def test_no_scenario_draws_nothing() -> None:
    scenario = Scenario.draw(ScenarioSettings(), 5, 9, 0)
    assert not scenario.item_N.any()
    assert not scenario.user_U.any()
    assert scenario.phases == 1
    assert scenario.tilt_N(0, np.ones(9, dtype=np.int64), np.zeros(9)) is None
    assert scenario.offset(END, np.arange(9)) == 0.0


def test_a_large_catalogue() -> None:
    """Above the border slates are drawn by cells: the log is sound, and the optimum that of trying every item."""
    config = WorldConfig(users=12, items=24_000, slates_per_user=20, scenario=ScenarioSettings(kind="cold-start"))
    world = generate_world(config, 2)
    users = _users(world)
    shown = world.dataset.events.filter(pl.col("kind") == "impression")
    assert shown.height == 12 * 20 * 10
    assert shown["propensity"].is_between(0, 1, closed="right").all()
    assert shown.group_by("user_id", "time").agg(pl.col("item_id").n_unique())["item_id"].min() == 10
    assert _counts(world, "impression", 0, 45)[world.scenario.item_N].sum() == 0
    best, value = world.optimum(users, 7), world.value_BN(users)
    every = np.argsort(-value, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(best.items_BK, every)
    np.testing.assert_allclose(best.value_BK, np.take_along_axis(value, every, axis=1))

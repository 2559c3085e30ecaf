"""An update from the log, by a shop where the lamp of a user's colour earns most and is rarely shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmrec.config import GateSettings, LoraSettings, OffPolicySettings, RewardSettings, TiltedSettings
from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.online.events import Logged, LoggedState, Outcome, Received, Served
from llmrec.online.explore import WithoutReplacement
from llmrec.online.layer import ItemLayer
from llmrec.online.log import EventLog
from llmrec.online.replay import parted, replay
from llmrec.online.update import ADAPTER, OnlineSettings, Updater
from llmrec.online.versions import HotSwap, Versions
from llmrec.training.lora import Adapter, load_adapter
from llmrec.types import State
from tests.training import logged_world
from tests.training.conftest import COLOURS

REWARD = RewardSettings(click=1.0, conversion=3.0)
SETTINGS = OnlineSettings(
    off_policy=OffPolicySettings(
        slate=1, draws=2, batch_size=32, epochs=4.0, learning_rate=5e-3, lora=LoraSettings(rank=8), save_every=99
    ),
    gate=GateSettings(effective_samples=30.0),
    samples=200,
    position_bias=0.0,
)


def logged(seq, slate_id, user, items, chances, received=(), state=LoggedState("likes red")):
    outcomes = tuple(Received(seq + n, 0, Outcome(slate_id, i, k), late) for n, (i, k, late) in enumerate(received))
    return Logged(seq, 0, 0, Served(slate_id, user, items, chances, 1, "", state), outcomes)


def test_replay_gives_rows_of_what_counts():
    row_of = {"a": 0, "b": 1, "c": 2}
    found = replay(
        [
            logged(1, "s", "ann", ("b", "a"), (0.5, 0.25), [("b", "conversion", False), ("a", "click", True)]),
            logged(9, "t", None, ("c", "gone"), (0.5, 0.5)),
            logged(10, "u", None, ("c",), (1.0,), state=None),
            logged(11, "v", None, ("c",), (0.125,), [("c", "cart", False)]),
        ],
        row_of,
        REWARD,
    )
    assert found.skipped == 2
    assert found.log.item_M.tolist() == [1, 0, 2]
    assert found.log.state_row_M.tolist() == [0, 0, 1]
    assert found.log.position_M.tolist() == [0, 1, 0]
    assert found.log.propensity_M.tolist() == [0.5, 0.25, 0.125]
    assert found.reward_M.tolist() == [4, 0, 1]
    assert found.log.user_ids == ["ann", "slate v"]


def test_users_are_held_out_as_a_whole_and_for_good():
    slates = [logged(n, f"s{n}", f"u{n % 200}", ("a",), (1.0,)) for n in range(1000)]
    learnt, held = parted(slates, 0.25, 3)
    users = {one.served.user_id for one in held}
    assert len(held) == 5 * len(users)
    assert not users & {one.served.user_id for one in learnt}
    assert 25 < len(users) < 75
    assert users == {one.served.user_id for one in parted(slates[::-1], 0.25, 3)[1]}


@pytest.fixture
def updater(shop, tmp_path):
    def start():
        return logged_world.start(shop, 5, model=shop.model(hidden=32, seed=5))

    return Updater(Versions(tmp_path / "versions"), start, REWARD, SETTINGS, seed=1)


def earned(state, item):
    """A lamp of the user's colour is bought, other things of that colour are clicked."""
    colour = COLOURS.index(state.profile.split()[-1])
    return ("conversion",) if item == 3 * colour else ("click",) if item // 3 == colour else ()


def serve(log, shop, explorer, version, number, first=0, earn=earned):
    states = [State(f"u{n}", f"likes {COLOURS[n % 4]}") for n in range(first, first + number)]
    names = [f"{version}-{first + n}" for n in range(number)]
    ids = shop.catalogue.item_ids
    made = explorer.propose(states, 3, names)
    slates = [
        Served(name, s.user_id, tuple(ids[i] for i in m.items_K), m.propensity_K, version, "", LoggedState.of(s, ids))
        for name, s, m in zip(names, states, made, strict=True)
    ]
    log.serve(slates)
    pairs = zip(names, states, made, strict=True)
    log.receive([Outcome(n, ids[i], kind) for n, s, m in pairs for i in m.items_K for kind in earn(s, i)])
    return (
        float(
            np.mean(
                [
                    sum(4 * (k == "conversion") + (k == "click") for i in m.items_K for k in earn(s, i))
                    for s, m in zip(states, made, strict=True)
                ]
            )
        )
        / 3
    )


@pytest.mark.slow
def test_an_update_learns_is_promoted_and_a_bad_one_is_never_served(shop, updater, tmp_path):
    now = [1000]
    with EventLog(tmp_path / "log.sqlite", window_s=10, clock=lambda: now[0]) as log:
        with pytest.raises(RequestError, match="call begin first"):
            updater.update(log, tmp_path / "t0")
        updater.begin()
        swap = HotSwap(updater.versions, updater.policy)
        number, policy = swap.current()
        before = serve(log, shop, WithoutReplacement(policy, seed=1), number, 400)
        with pytest.raises(RequestError, match="serve more"):
            updater.update(log, tmp_path / "t0")  # no window is over
        now[0] += 11
        log.tick()
        verdict = updater.update(log, tmp_path / "t1")
        assert verdict.promoted, verdict.reason
        assert verdict.gain.low > 0
        number, policy = swap.current()
        assert number == verdict.number == 2
        after = serve(log, shop, WithoutReplacement(policy, seed=1), number, 200, first=400)
        assert after > 1.3 * before
        # A bad update: weights of noise. The gate has it beside what is served now, and refuses.
        now[0] += 11
        log.tick()
        good = load_adapter(updater.versions.version(2).folder / ADAPTER)
        torch.manual_seed(0)
        noise = Adapter(good.config, {name: torch.randn_like(tensor) for name, tensor in good.tensors.items()})
        bad = updater.versions.add(lambda folder: noise.save(folder / ADAPTER))
        held = parted(log.slates(), 0.25, 1)[1]
        row_of = {item: row for row, item in enumerate(shop.catalogue.item_ids)}
        refused = updater.judge(bad.number, replay(held, row_of, REWARD))
        assert not refused.promoted
        assert swap.current()[0] == 2
        assert {one.served.version for one in log.slates(mature=False)} == {1, 2}


TILTED = TiltedSettings(
    kl_coefficient=0.001,
    entropy_coefficient=0.3,
    depth=12,
    epochs=6.0,
    learning_rate=1e-2,
    lora=LoraSettings(rank=8),
)


@pytest.mark.parametrize(("learner", "on_top"), [("tilted", False), ("none", True), ("off-policy", True)])
def test_item_worths_teach_what_everybody_wants_now(shop, updater, tmp_path, learner, on_top):
    """A policy that knows colours, and things that are bought by everybody, whatever their colour."""
    learning = replace(updater, settings=replace(SETTINGS, learner=learner, item_worths=on_top, tilted=TILTED))
    wanted = (5, 10)
    now = [1000]
    with EventLog(tmp_path / "log.sqlite", window_s=10, clock=lambda: now[0]) as log:
        first = learning.begin()
        policy = learning.policy(first)
        served = serve(
            log, shop, WithoutReplacement(policy, seed=1), 1, 450, earn=lambda _, item: _bought(item, wanted)
        )
        now[0] += 11
        log.tick()
        verdict = learning.update(log, tmp_path / "t1")
        assert verdict.promoted, verdict.reason
        states = [State(f"v{n}", f"likes {COLOURS[n % 4]}") for n in range(8)]
        assert all(
            set(one.items_K) == set(wanted)
            for one in learning.policy(learning.versions.version(2)).recommend(states, 2)
        )
        assert not all(set(one.items_K) == set(wanted) for one in policy.recommend(states, 2))
        assert served > 0


def test_item_worths_on_top_are_the_optimum_that_an_adapter_learns(shop, updater, tmp_path):
    """Written down they are (pi^(b + beta) exp(a))^(1 / (beta + c)) of the plain policy, and go on from the log alone."""
    learning = replace(updater, settings=replace(SETTINGS, learner="none", item_worths=True, tilted=TILTED))
    now = [1000]
    with EventLog(tmp_path / "log.sqlite", window_s=10, clock=lambda: now[0]) as log:
        plain = learning.policy(learning.begin())
        earn = lambda _, item: _bought(item, (5, 10))  # noqa: E731
        serve(log, shop, WithoutReplacement(plain, seed=1), 1, 450, earn=earn)
        now[0] += 11
        log.tick()
        number = learning.update(log, tmp_path / "t1").number
        made = learning.versions.version(number)
        again = learning.update(log, tmp_path / "t2")  # nothing new: the version that was made is found again
        assert again.number == number
        told = learning._replay(parted(log.slates(), SETTINGS.held_out, learning.seed)[0])
    worth, states = learning.worth(plain, told), [State(f"v{n}", f"likes {COLOURS[n % 4]}") for n in range(8)]
    every = torch.arange(len(shop.catalogue)).expand(8, -1)
    with torch.no_grad():
        base_BN, found_BN = (p.log_prob(states, every).double() for p in (plain, learning.policy(made)))
    temperature = TILTED.kl_coefficient + TILTED.entropy_coefficient
    value_BN = (max(worth.slope, 0.0) + TILTED.kl_coefficient) * base_BN + torch.from_numpy(worth.item_N)
    wanted_BN = torch.log_softmax(value_BN / temperature, 1)
    assert float((wanted_BN.exp() * (wanted_BN - found_BN)).sum(1).max()) < 0.01
    assert float((wanted_BN.exp() * (wanted_BN - base_BN)).sum(1).min()) > 0.3
    first = learning.versions.version(1)
    assert all(
        torch.equal(own, load_adapter(first.folder / ADAPTER).tensors[name])
        for name, own in load_adapter(made.folder / ADAPTER).tensors.items()
    )
    with pytest.raises(RunError, match="other items"):
        ItemLayer.load(made.folder, list(reversed(shop.catalogue.item_ids)))


def test_a_log_without_propensities_tells_no_item_worths(shop, updater, tmp_path):
    first = updater.begin()
    told = replay([logged(1, "s", "ann", (shop.catalogue.item_ids[0],), (0.5,))], updater.row_of, REWARD)
    assert updater.worth(updater.policy(first), told) is not None
    without = replace(told, log=replace(told.log, propensity_M=np.full(1, np.nan, dtype=np.float32)))
    assert updater.worth(updater.policy(first), without) is None
    learning = replace(updater, settings=replace(SETTINGS, learner="tilted"))
    with pytest.raises(RequestError, match="log propensities"):
        learning._by_worth(updater.start(), first, without, None)


def _bought(item, wanted):
    return ("conversion",) if item in wanted else ()


def test_weights_of_noise_are_refused_and_never_served(shop, updater, tmp_path):
    with EventLog(tmp_path / "log.sqlite", window_s=0, clock=lambda: 5) as log:
        first = updater.begin()
        serve(log, shop, WithoutReplacement(updater.policy(first), seed=1), 1, 120)
        good = load_adapter(first.folder / ADAPTER)
        torch.manual_seed(0)
        noise = Adapter(good.config, {name: torch.randn_like(tensor) for name, tensor in good.tensors.items()})
        bad = updater.versions.add(lambda folder: noise.save(folder / ADAPTER))
        row_of = {item: row for row, item in enumerate(shop.catalogue.item_ids)}
        held = replay(log.slates(mature=False), row_of, REWARD)
        verdict = updater.judge(bad.number, held)
        assert (verdict.number, verdict.promoted) == (2, False)
        same = updater.judge(first.number, held)  # what changes nothing gains nothing
        assert not same.promoted
        assert same.gain.mean == pytest.approx(0)
        assert updater.versions.serving().number == 1


def test_settings_that_cannot_be(updater):
    for change, said in (
        ({"held_out": 0.0}, "held-out users"),
        ({"newest": 0}, "at least one slate"),
        ({"off_policy": OffPolicySettings(estimator="doubly-robust")}, "top-k"),
        ({"tilted": TiltedSettings(depth=1)}, "tilted.depth"),
        ({"learner": "none"}, "item_worths"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(updater, settings=replace(SETTINGS, **change)).begin()

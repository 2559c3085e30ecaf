"""The cycle around an updater that learns nothing: when it is called, what it is given, and what becomes of versions."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from llmrec.config import RewardSettings
from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.files import write_json
from llmrec.locks import Busy
from llmrec.online.cycle import CYCLE, Cycle, Progress
from llmrec.online.drift import Drift
from llmrec.online.events import Outcome, Served
from llmrec.online.log import EventLog, EventReader
from llmrec.online.serving import Server
from llmrec.online.simulated import _check_same
from llmrec.online.update import CycleSettings, OnlineSettings, Verdict
from llmrec.online.versions import Versions
from llmrec.types import State

REWARD = RewardSettings(click=1.0, conversion=3.0)


class Learner:
    """An updater whose gate lets pass what `passes` says; it writes down what it was asked."""

    def __init__(self, folder, passes=(), **cycle):
        self.versions, self.reward, self.seed, self.passes = Versions(folder), REWARD, 1, list(passes)
        given = {"every": 50, "least": 20, "drift_level": 0.01, "trial_pairs": 30}
        self.settings = OnlineSettings(cycle=CycleSettings(**{**given, **cycle}))
        self.asked: list[tuple[int, int]] = []
        self.row_of = {"a": 0, "b": 1}

    def add(self, **facts):
        return self.versions.add(lambda folder: (folder / "weights").write_text(str(facts)), facts)

    def begin(self):
        if not self.versions.numbers():
            self.versions.promote(self.add().number, "the warm start")

    def update(self, reader, scratch, *, after, until):
        self.asked.append((after, until))
        # as the true one: a version that this very log has made is found again
        numbers = self.versions.numbers()
        made = next((n for n in numbers if self.versions.version(n).facts.get("last_seq") == until), None)
        passes = self.passes[(made or numbers[-1] + 1) - 2 : (made or numbers[-1] + 1) - 1] == [True]
        number = made or self.add(last_seq=until).number
        if passes and self.versions.serving().number != number:
            self.versions.promote(number, "better")
        return Verdict(number, passes, "better" if passes else "no better")

    def policy(self, version):
        return version.number


class Explorer:
    def __init__(self, version, heat=1.0):
        self.version, self.name = version, f"fixed {heat:g}"

    def propose(self, states, k, names, *, seen=None):
        from llmrec.online.explore import Proposal

        return [Proposal((0, 1)[:k], (0.5, 1.0)[:k]) for _ in states]


class Shop:
    """A log whose slates earn what `earn(version, number)` says, in clicks, and are mature at once."""

    def __init__(self, tmp_path, learner, earn, window_s=0):
        self.learner, self.earn, self.now, self.number = learner, earn, 1000, 0
        self.log = EventLog(tmp_path / "events.sqlite", window_s=window_s, clock=lambda: self.now)

    def serve(self, cycle, count):
        server = Server(cycle, Explorer)
        names = [f"s{self.number + n:05d}" for n in range(count)]
        self.number += count
        made = server.slates([State(f"u{n}") for n in names], 1, names)
        self.log.serve(made)
        worth = [self.earn(one.version, int(one.slate_id[1:])) for one in made]
        self.log.receive([Outcome(one.slate_id, "a", "click") for one, yes in zip(made, worth, strict=True) if yes])
        self.now += 1
        self.log.tick()


@pytest.fixture
def shop(tmp_path):
    shops = []

    def made(learner, earn):
        shops.append(Shop(tmp_path, learner, earn))
        return shops[-1]

    yield made
    for one in shops:
        one.log.close()


def chance(share):
    random = np.random.default_rng(0)
    luck = random.random(20_000)
    return lambda version, number: luck[number] < (share(version, number) if callable(share) else share)


def kinds(cycle):
    return [(one.kind, one.version) for one in cycle.progress.decisions]


def test_updates_come_on_schedule_and_a_promotion_is_tried(shop, tmp_path):
    learner = Learner(tmp_path / "v", passes=[False, True])
    here = shop(learner, chance(0.3))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        for _ in range(12):
            here.serve(cycle, 25)
            cycle.step()
        assert learner.asked[:2] == [(0, _seq(here, 50)), (0, _seq(here, 100))]
        assert kinds(cycle)[:4] == [("begun", 1), ("refused", 2), ("promoted", 3), ("kept", 3)]
        shares = [one.served.version for one in here.log.slates(after=_seq(here, 100), mature=False)]
        assert {1, 3} == set(shares)
        # about a third by the older version until 30 pairs were compared, none of it afterwards
        last = max(n for n, version in enumerate(shares) if version == 1)
        assert 0.2 < np.mean(np.array(shares[: last + 1]) == 1) < 0.45
        assert last < 150
        # no update while the trial ran
        assert learner.asked[2][1] > cycle.progress.decisions[3].seq - 1


def _seq(here, slates):
    """The sequence number of the slate of that place in the log."""
    return [one.seq for one in here.log.slates(mature=False)][slates - 1]


def test_rewards_that_fall_raise_an_alarm_and_what_was_before_is_left_out(shop, tmp_path):
    learner = Learner(tmp_path / "v", every=100_000)
    here = shop(learner, chance(lambda version, number: 0.8 if number < 300 else 0.1))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        for _ in range(24):
            here.serve(cycle, 20)
            cycle.step()
    (alarm,) = [one for one in cycle.progress.decisions if one.kind == "alarm"]
    assert abs(alarm.after - _seq(here, 300)) < 25
    assert _seq(here, 300) < alarm.seq < _seq(here, 360)
    # one update at the alarm, as soon as enough slates have come since the change
    assert [after for after, _ in learner.asked] == [alarm.after]
    assert learner.asked[0][1] - alarm.after >= learner.settings.cycle.least


def test_behind_an_alarm_slates_are_drawn_hotter_until_an_update_is_promoted_or_enough_have_ripened(tmp_path):
    for name, passes, end in (("promoted", [True], None), ("refused", [False], 200)):
        learner = Learner(tmp_path / name, passes=passes, every=100_000, search_slates=200, search_heat=4.0)
        (tmp_path / f"{name}.log").mkdir()
        here = Shop(tmp_path / f"{name}.log", learner, chance(lambda version, number: 0.8 if number < 300 else 0.1))
        cycle, heats = Cycle(learner, here.log), []
        with cycle.alone():
            for _ in range(40):
                here.serve(cycle, 20)
                cycle.step()
                heats.append((cycle.progress.seq, cycle.heat))
            assert heats[-1][1] == Cycle(learner, here.log).heat  # follows from what is written down
        seqs = [one.seq for one in here.log.slates(mature=False)]
        here.log.close()
        (alarm,) = [one for one in cycle.progress.decisions if one.kind == "alarm"]
        answer = next(one for one in cycle.progress.decisions if one.kind == name)
        hot = [seq for seq, heat in heats if heat > 1.0]
        assert all(seq >= alarm.seq for seq in hot)
        assert all(heat == (4.0 if seq < answer.seq else 16.0) for seq, heat in heats if heat > 1.0)
        if end is None:  # from the alarm to the promotion
            assert all(seq < answer.seq for seq in hot)
        else:
            assert hot[-1] > answer.seq
            ripened = sum(alarm.seq < seq <= hot[-1] for seq in seqs)
            assert end - 20 <= ripened < end


def test_slates_that_are_drawn_hotter_and_earn_less_for_it_ring_no_second_alarm(shop, tmp_path):
    """Demand falls once. What hot slates lose is no change, and a true one among them or behind them is one."""
    for falls_again, alarms in ((None, 1), (800, 2), (1500, 2)):
        (tmp_path / str(falls_again)).mkdir()
        learner = Learner(tmp_path / str(falls_again) / "v", every=100_000, search_slates=600, search_heat=4.0)
        luck, heat = np.random.default_rng(0).random(5000), [1.0]

        def earn(version, number, again=falls_again, luck=luck, heat=heat):
            likely = 0.9 if number < 300 else 0.6 if again is None or number < again else 0.25
            return luck[number] < likely * (0.4 if heat[0] > 1 else 1.0)

        here = Shop(tmp_path / str(falls_again), learner, earn, window_s=9)  # ten times twenty slates ripen meanwhile
        cycle = Cycle(learner, here.log)
        with cycle.alone():
            for _ in range(120):
                heat[0] = cycle.heat
                here.serve(cycle, 20)
                cycle.step()
            again = Cycle(learner, here.log)
            # what is watched follows from what is written down
            assert watched(again) == watched(cycle)
        here.log.close()
        found = [one for one in cycle.progress.decisions if one.kind == "alarm"]
        assert len(found) == alarms, (falls_again, found)
        if falls_again is not None:
            assert found[1].seq > [one.seq for one in here_slates(tmp_path / str(falls_again))][falls_again]


def watched(cycle):
    """Of both watches and each way of drawing: the slates that it has seen, and its evidence."""
    return [
        watch and {drawn: (seqs, drift.evidence) for drawn, (drift, seqs) in watch.drawn.items()}
        for watch in (cycle._watch, cycle._former)
    ]


@pytest.mark.parametrize("trial_pairs", [0, 30])
def test_a_fall_that_comes_with_a_promotion_rings_too(shop, tmp_path, trial_pairs):
    """The new version has nothing to have fallen from; the one before it has, and what follows it is to earn no less."""
    learner = Learner(tmp_path / "v", passes=[True], every=300, trial_pairs=trial_pairs)
    here = shop(learner, chance(lambda version, number: 0.8 if number < 300 else 0.1))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        for _ in range(24):
            here.serve(cycle, 20)
            cycle.step()
            # a cycle that was killed watches on
            assert watched(Cycle(learner, here.log)) == watched(cycle)
    decisions = cycle.progress.decisions
    (alarm,) = [one for one in decisions if one.kind == "alarm"]
    promoted = next(one for one in decisions if one.kind == "promoted")
    # a third of the slates are the older version's during a trial
    assert promoted.seq == _seq(here, 300) < alarm.seq < _seq(here, 450 if trial_pairs else 400)
    assert abs(alarm.after - promoted.seq) < 25


@pytest.mark.parametrize("trial_pairs", [0, 30])
def test_a_version_that_earns_more_rings_nothing(shop, tmp_path, trial_pairs):
    learner = Learner(tmp_path / "v", passes=[True] * 3, every=300, trial_pairs=trial_pairs)
    here = shop(learner, chance(lambda version, number: 0.2 + 0.1 * version))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        for _ in range(100):
            here.serve(cycle, 20)
            cycle.step()
            assert watched(Cycle(learner, here.log)) == watched(cycle)
    told = [one for one in kinds(cycle) if one[0] in ("alarm", "promoted")]
    assert told == [("promoted", 2), ("promoted", 3), ("promoted", 4)]


def test_a_version_that_is_worse_is_no_change_of_demand(shop, tmp_path):
    """While it is on trial each version speaks for itself; the older one is watched on when it is served again."""
    learner = Learner(tmp_path / "v", passes=[True], every=300, trial_pairs=400)

    def likely(version, number):
        return (0.8 if version == 1 else 0.1) if number < 1000 else 0.05

    here = shop(learner, chance(likely))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        for turn in range(56):
            here.serve(cycle, 20)
            cycle.step()
            assert watched(Cycle(learner, here.log)) == watched(cycle)
            if turn == 49:
                assert kinds(cycle)[:3] == [("begun", 1), ("promoted", 2), ("taken back", 2)]
                assert "alarm" not in [kind for kind, _ in kinds(cycle)]
                # among them slates of the time before the promotion
                ((seqs, _),) = watched(cycle)[0].values()
                assert seqs[0] == _seq(here, 1)
                assert len(seqs) > 800
    (alarm,) = [one for one in cycle.progress.decisions if one.kind == "alarm"]
    assert abs(alarm.after - _seq(here, 1000)) < 25


def here_slates(folder):
    with EventReader(folder / "events.sqlite") as log:
        return list(log.slates(mature=False))


def test_an_explorer_is_made_once_for_a_version_and_not_for_each_request(shop, tmp_path):
    learner = Learner(tmp_path / "v")
    here = shop(learner, chance(0.3))
    made = []

    def explorer(version, heat):
        made.append((version, heat))
        return Explorer(version, heat)

    cycle = Cycle(learner, here.log)
    with cycle.alone():
        server = Server(cycle, explorer)
        for n in range(3):
            server.slates([State("ann")], 1, [f"s{n}"])
    assert made == [(1, 1.0)]


def test_a_version_that_is_worse_is_taken_back_and_never_served_again(shop, tmp_path):
    learner = Learner(tmp_path / "v", passes=[True], trial_pairs=400, drift_level=0.0)
    here = shop(learner, chance(lambda version, number: 0.9 if version == 1 else 0.1))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        for _ in range(30):
            here.serve(cycle, 20)
            cycle.step()
        assert kinds(cycle)[1:3] == [("promoted", 2), ("taken back", 2)]
        back = cycle.progress.decisions[2].seq
        assert all(one.served.version == 1 for one in here.log.slates(after=back + 40, mature=False))
        with pytest.raises(RunError, match="taken back"):
            learner.versions.promote(2, "again")


def test_what_somebody_promotes_by_hand_is_tried_too(shop, tmp_path):
    learner = Learner(tmp_path / "v", every=100_000, trial_pairs=400, drift_level=0.0)
    here = shop(learner, chance(lambda version, number: 0.9 if version == 1 else 0.1))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        here.serve(cycle, 40)
        cycle.step()
        learner.versions.promote(learner.add().number, "I know better")
        for _ in range(30):
            cycle.step()
            here.serve(cycle, 20)
    assert kinds(cycle) == [("begun", 1), ("changed", 2), ("taken back", 2)]
    assert cycle.progress.decisions[1].reason == "I know better"


def test_a_killed_cycle_decides_as_one_that_was_not(tmp_path):
    def month(place, killed):
        learner = Learner(place / "v", passes=[True, False, True, True], trial_pairs=15)
        here = Shop(place, learner, earn)
        cycle = Cycle(learner, here.log)
        with cycle.alone():
            for turn in range(30):
                here.serve(cycle, 20)
                if killed and turn % 2:
                    # the decisions of this step are lost, what they did is not
                    told = (learner.versions.folder / CYCLE).read_bytes()
                    cycle.step()
                    (learner.versions.folder / CYCLE).write_bytes(told)
                    cycle = Cycle(learner, here.log)
                cycle.step()
        here.log.close()
        return cycle.progress, [one.served for one in _all(place)]

    earn = chance(lambda version, number: 0.7 if number < 350 else 0.2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, slates = month(tmp_path / "a", killed=False)
    again, others = month(tmp_path / "b", killed=True)
    assert len(whole.decisions) >= 5
    assert again == whole
    assert others == slates


def _all(place):
    from llmrec.online.log import EventReader

    with EventReader(place / "events.sqlite") as reader:
        return list(reader.slates(mature=False))


def test_a_trial_that_nobody_serves_ends(shop, tmp_path):
    learner = Learner(tmp_path / "v", passes=[True, True])
    here = shop(learner, chance(0.3))
    cycle = Cycle(learner, here.log)

    def serve(count):  # a server that knows of no trials
        version = learner.versions.serving().number
        names = [f"s{here.number + n}" for n in range(count)]
        here.number += count
        here.log.serve([Served(name, None, ("a",), (0.5,), version) for name in names])
        here.now += 1
        here.log.tick()

    with cycle.alone():
        with pytest.raises(RequestError, match="0 slates have ripened so far"):
            cycle.update()
        serve(30)
        assert [one.kind for one in cycle.update()] == ["promoted"]
        with pytest.raises(RequestError, match="is on trial against version 1"):
            cycle.update()
        serve(40)
        assert [one.kind for one in cycle.update()] == ["kept", "promoted"]
        assert cycle.progress.decisions[-2].reason == "version 1 was not served beside it"


def test_one_cycle_at_a_time_and_its_file_is_checked(shop, tmp_path):
    learner = Learner(tmp_path / "v")
    here = shop(learner, chance(0.3))
    cycle = Cycle(learner, here.log)
    with cycle.alone():
        import threading

        said = []

        def other():
            try:
                with Cycle(learner, here.log).alone():
                    pass
            except Busy as error:
                said.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "is in use by process" in said[0]
    (tmp_path / "v" / CYCLE).write_text('{"format": "llmrec-cycle-1", "seq": "x"}')
    with pytest.raises(RunError, match="is damaged"):
        Progress.read(tmp_path / "v")
    (tmp_path / "v" / CYCLE).write_text("{}")
    with pytest.raises(RunError, match="not of the format"):
        Progress.read(tmp_path / "v")


def test_a_simulation_knows_its_settings_again_and_refuses_others(tmp_path):
    place = tmp_path / "simulation.json"
    told = {"seed": 1, "settings": asdict(OnlineSettings()), "pair": (1, 2)}
    _check_same(place, told)
    write_json(place, told)
    _check_same(place, told)
    with pytest.raises(RunError, match="another seed and another settings"):
        _check_same(place, {**told, "seed": 2, "settings": asdict(OnlineSettings(pull=1.0))})


def test_settings_of_the_cycle_that_cannot_be():
    for change, said in (
        ({"every": 0}, "cycle.every"),
        ({"least": 0}, "cycle.least"),
        ({"trial_share": 1.0}, "cycle.trial_share"),
        ({"search_slates": -1}, "search_slates"),
        ({"search_heat": 0.5}, "cycle.search_heat"),
        ({"drift_level": 1.0}, "cycle.drift_level"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(CycleSettings(), **change).check()
    with pytest.raises(ConfigError, match="position_bias"):
        OnlineSettings(position_bias=-1.0).check()


def test_the_change_is_where_the_best_bet_begins():
    """Each bet is kept apart, by its slope and beginning, and the best is looked for."""
    random = np.random.default_rng(3)
    drift, pays = Drift(0.01, seed=5), []
    rewards = [*random.random(60), *(0.3 * random.random(40))]
    for n, reward in enumerate(rewards, 1):
        before = drift._running_S.copy()
        drift.add(reward)
        pays.append(drift._running_S / (before + 1 / (n * (n + 1))))
        capital = {
            (start, slope): np.prod([one[slope] for one in pays[start:]]) / ((start + 1) * (start + 2))
            for start in range(n)
            for slope in range(4)
        }
        best = max(capital, key=capital.__getitem__)
        assert capital[(drift.since, best[1])] == pytest.approx(capital[best], rel=1e-9)
    assert 50 < drift.since < 70

"""Simulated traffic: the world's own rates, the same luck for everybody, and a month that is interrupted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmrec.config import RewardSettings, ScenarioSettings, WorldConfig
from llmrec.dataset.world import generate_world
from llmrec.dataset.world.scenario import DAY, START
from llmrec.errors import ConfigError, DataError
from llmrec.online.cycle import Decision
from llmrec.online.events import Served
from llmrec.online.log import EventLog
from llmrec.online.report import by_day, draw, lines, write
from llmrec.online.traffic import TrafficSettings, WorldTraffic

BEGIN = START + 60 * DAY
SETTINGS = TrafficSettings(days=6, visits=30, places=3)


@pytest.fixture(scope="module")
def world():
    scenario = ScenarioSettings(kind="shift", day=63.0)
    return generate_world(WorldConfig(users=60, items=12, slates_per_user=4, slate_size=4, scenario=scenario), 5)


def people(world, settings=SETTINGS):
    return WorldTraffic(world, settings, 5, BEGIN, 7)


def serve_first(states, k, names):
    return [
        Served(n, s.user_id, tuple(f"{i}" for i in IDS[:k]), (0.5,) * k, 1)
        for n, s in zip(names, states, strict=True)
    ]


IDS: list[str] = []


@pytest.fixture(autouse=True)
def ids(world):
    IDS[:] = world.dataset.items["item_id"].to_list()


def play(world, place, stops=()):
    """All days; `stops` are days behind which the process is another one."""
    now: list[WorldTraffic] = [people(world)]

    def opened():
        return EventLog(place, window_s=now[0].window_s, clock=lambda: now[0].now)

    log, day = opened(), 0
    while day <= now[0].last:
        now[0].day(day, log, serve_first)
        if day in stops:
            stops = tuple(set(stops) - {day})
            log.close()
            now[0] = people(world)
            log = opened()
            assert now[0].resume(log) == day
            continue
        day += 1
    found = list(log.slates(mature=False)), log.counts(), now[0].state(now[0].users[0])
    log.close()
    return found


def test_what_people_do_has_the_rates_of_the_world(world):
    traffic = people(world)
    for day in (0, 5):
        time = traffic.time_of(day)
        clicks, buys, expected = 0, 0, np.zeros(2)
        for n in range(1000):
            user = traffic.users[n % len(traffic.users)]
            found = traffic.outcomes(Served(f"{day} {n}", user, tuple(IDS[:3]), (0.5,) * 3, 1), time)
            clicks += sum(one.kind == "click" for _, one in found)
            buys += sum(one.kind == "conversion" for _, one in found)
            assert all(at >= time for at, _ in found)
            chance = world.expected_click_BN([user], time)[0, :3]
            expected += [chance.sum(), (chance * world.expected_conversion_BN([user])[0, :3]).sum()]
        assert abs(clicks - expected[0]) < 4 * np.sqrt(expected[0])
        assert abs(buys - expected[1]) < 4 * np.sqrt(expected[1])


def test_a_month_that_is_interrupted_is_the_same_month(world, tmp_path):
    whole = play(world, tmp_path / "whole.sqlite")
    again = play(world, tmp_path / "again.sqlite", stops=(0, 3, 7))
    assert again[0] == whole[0]
    assert again[2] == whole[2]
    assert whole[1] == again[1]
    assert whole[1]["slates"] == 180
    assert whole[1]["jumps"] == 0
    assert whole[1]["outcomes"] > 20
    traffic = people(world)
    assert [len(set(traffic.visitors(day))) for day in range(2)] == [30, 30]


def test_states_hold_what_was_reported_and_nothing_of_the_log_behind_the_beginning(world, tmp_path):
    slates, _, _ = play(world, tmp_path / "log.sqlite")
    traffic = people(world)
    with EventLog(tmp_path / "log.sqlite", window_s=traffic.window_s, clock=lambda: traffic.now) as log:
        traffic.resume(log)
        traffic.now = traffic.time_of(8)
        traffic._receive(log)
        some = next(one.served.user_id for one in slates if one.received)
        mine = [one for one in slates if one.served.user_id == some and one.received]
        told = {(IDS[i.item], i.time): i.feedback for i in traffic.state(some).history if i.time >= BEGIN}
        # what came too late to be learnt from is known all the same
        kinds = {(r.outcome.item_id, one.time, r.outcome.kind) for one in mine for r in one.received}
        wanted = {(i, at): "conversion" if (i, at, "conversion") in kinds else "click" for i, at, _ in kinds}
        assert told.items() <= wanted.items()
        assert told
        assert all(i.time < BEGIN for i in people(world).state(some).history)


def test_values_are_the_worlds_and_days_are_counted(world, tmp_path):
    slates, _, _ = play(world, tmp_path / "log.sqlite")
    traffic = people(world)
    value_M = traffic.values(slates)
    for row in (0, 40, 179):
        one = slates[row]
        by_hand = world.value_BN([one.served.user_id], time=one.time)[0, :3].mean()
        assert value_M[row] == pytest.approx(by_hand)
    reward = RewardSettings(click=1.0, conversion=3.0)
    days = by_day(slates, reward, BEGIN, value_M)
    assert days.slates_D == [30] * 6
    assert days.versions_D[0] == {1: 30}
    assert days.value_D[0] == pytest.approx(value_M[:30].mean())
    clicks = sum(one.counted("click", item) for one in slates[:30] for item in one.served.items_K)
    buys = sum(one.counted("conversion", item) for one in slates[:30] for item in one.served.items_K)
    assert days.reward_D[0] == pytest.approx((clicks + 3 * buys) / 90)
    # the day of the shift, seen in the values of the same list
    assert abs(days.value_D[2] - days.value_D[3]) > 3 * abs(days.value_D[0] - days.value_D[1])
    decisions = (Decision("promoted", 9, BEGIN + 3 * DAY, 2, "better"), Decision("alarm", 9, BEGIN, 1, "", 3))
    assert lines(days, decisions, BEGIN)[-2] == "- day 4, version 2 promoted: better"
    assert draw(days, decisions, BEGIN, "days").startswith("<svg")
    write(tmp_path, days, decisions, BEGIN, title="Days", facts={"seed": 1})
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# Days")
    assert len(by_day([], reward, BEGIN).slates_D) == 0


def test_traffic_that_cannot_be(world):
    for change in ({"days": 0}, {"places": 13}, {"window": 1.0}):
        with pytest.raises(ConfigError):
            people(world, replace(SETTINGS, **change))
    with pytest.raises(DataError, match="begin later"):
        WorldTraffic(world, SETTINGS, 5, START, 7)

"""The figures of eval/serve_load.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parents[2] / "eval" / "serve_load.py"
spec = importlib.util.spec_from_file_location("serve_load", PLACE)
load = importlib.util.module_from_spec(spec)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    import sys

    sys.modules["serve_load"] = load  # its dataclasses look themselves up
    spec.loader.exec_module(load)
    yield
    del sys.modules["serve_load"]


def test_the_slope_of_the_memory_is_that_of_the_second_half():
    samples = [(float(s), 100.0 + s if s < 300 else 400.0 + 2.0 * (s - 300) / 60) for s in range(601)]
    found = load.memory_figures(samples)
    assert (found["begin_mb"], found["middle_mb"], found["end_mb"]) == (100.0, 400.0, 410.0)
    assert found["mb_per_minute"] == pytest.approx(2.0, abs=1e-6)
    assert found["mb_per_minute_interval"] == pytest.approx([2.0, 2.0], abs=1e-6)


def test_noise_is_no_slope_and_a_short_phase_tells_none():
    noise = np.random.default_rng(0).normal(0, 1, 601)
    low, high = load.memory_figures([(float(s), 500.0 + noise[s]) for s in range(601)])["mb_per_minute_interval"]
    assert low < 0 < high
    assert "mb_per_minute" not in load.memory_figures([(float(s), 500.0) for s in range(20)])


def test_the_slope_at_the_bound_begins_when_the_cache_is_full():
    """By 10 MB a minute for four minutes, then flat: the half begins too early, what follows the bound is flat."""
    samples = [(float(s), 100.0 + min(s, 240) / 6 + s % 2 / 1000) for s in range(301)]
    found = load.memory_figures(samples, 240.0)
    assert found["mb_per_minute"] > 2
    assert found["full_mb_per_minute"] == pytest.approx(0.0, abs=1e-2)
    assert load.flatness(found) == "the cache was full after 240 s, from then on 0.00 MB a minute (0.00 to 0.00)"
    each = load.per_answers(found, 50.0)  # a thousand answers in a third of a minute
    assert each["mb_per_1000"] == pytest.approx(found["mb_per_minute"] / 3)
    assert load.flatness(each).endswith(", 0.000 MB for 1,000 answers")
    assert "too late" in load.flatness(load.memory_figures(samples, 280.0))
    assert "not full" in load.flatness(load.memory_figures(samples))


def test_parts_are_added_by_their_seconds():
    def part(seconds, rate, cpu, wait):
        waits = {"p50_ms": wait, "p95_ms": wait, "p99_ms": wait}
        return {"seconds": seconds, "answered_per_s": rate, "server_cpu_ms": cpu, "statuses": {"200": 5}, **waits}

    found = load.together([part(10.0, 10.0, 4.0, 1.0), part(30.0, 30.0, 8.0, 3.0)])
    # 100 answers in 10 seconds and 900 in 30: 25 a second, and (400 + 7200) / 1000 ms each
    assert (found["answered_per_s"], found["server_cpu_ms"], found["p50_ms"]) == (25.0, 7.6, 2.0)
    assert found["statuses"] == {"200": 10}

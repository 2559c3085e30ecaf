"""eval/benchmark_rl_step.py runs all of its sides on one model, the same prompts and the same reward."""

import sys
from pathlib import Path

import pytest

EVAL = Path(__file__).resolve().parents[2] / "eval"
SMALL = ["--shape", "tiny", "--items", "40", "--prompts", "2", "--draws", "2", "--prompt", "12", "--rows", "2"]
SHORT = [*SMALL, "--rounds", "2", "--steps", "2", "--our-steps", "2", "--lora"]


@pytest.fixture
def sides(monkeypatch):
    monkeypatch.syspath_prepend(str(EVAL))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import benchmark_rl_step
    import rl_step_sides
    import speed

    config, model, sizes = speed.SHAPES["small"]
    tiny = {**sizes, "vocab_size": 2_048, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    monkeypatch.setitem(speed.SHAPES, "tiny", (config, model, tiny))
    yield benchmark_rl_step, rl_step_sides
    for name in ("benchmark_rl_step", "rl_step_sides", "speed"):
        sys.modules.pop(name, None)


def test_what_runs_inside_a_part_is_taken_out_of_it(sides, monkeypatch):
    """A step of 10 s: 1 before a rollout of 3 with a reward of 2 inside, 4 of an update with its scores inside."""
    _, module = sides
    now = [0.0]
    monkeypatch.setattr(module.time, "process_time", lambda: now[0])
    clock = module.Clock()

    def wait(seconds):
        now[0] += seconds

    reward = clock.timed("reward", lambda: wait(2.0))
    scores = clock.timed("scoring", lambda: wait(3.0))
    wait(1.0)
    clock.timed("rollout", lambda: (wait(1.0), reward(), wait(2.0)))()
    clock.timed("update", lambda: (wait(0.5), scores(), wait(0.5)))()
    clock.cut()
    wait(5.0)
    clock.cut()
    assert clock.steps[0] == {"rollout": 3.0, "scoring": 0.0, "reward": 2.0, "update": 4.0, "rest": 1.0}
    assert clock.steps[1]["rest"] == 5.0


def test_all_sides_train_on_the_same_prompts(sides, tmp_path):
    script, module = sides
    bench = module.Trainers(script.parse(SHORT), tmp_path)
    figures = script.measure(bench)
    assert set(figures) == {"ppo", "grpo", "trl", "constrained"}
    assert all(row["same prompts"] for row in figures.values())
    assert [figures[side]["draws that are items"] for side in ("ppo", "grpo", "constrained")] == [1.0, 1.0, 1.0]
    assert figures["trl"]["draws that are items"] < 1.0
    for row in figures.values():
        assert all(row["parts"][part] > 0 for part in ("rollout", "scoring", "update"))
        assert len(row["seconds"]) == 2
    assert len(figures["trl"]["times as long as ppo"]["rounds"]) == 2
    script.show(figures)


def test_all_weights_are_trained_without_lora(sides, tmp_path):
    script, module = sides
    options = script.parse([*SMALL, "--rounds", "1", "--our-steps", "1", "--sides", "ppo", "grpo", "trl"])
    bench = module.Trainers(options, tmp_path)
    for side in options.sides:
        trainer = bench.trainer(side, 1)
        assert all(p.requires_grad for name, p in trainer.model.named_parameters()), side
    assert bench.run("trl", 1)["prompts"] == bench.run("grpo", 1)["prompts"]


def test_rewards_are_a_number_by_item(sides, tmp_path):
    script, module = sides
    bench = module.Trainers(script.parse(SMALL), tmp_path)
    item = bench.tokens_NL[3].tolist()
    with_end = bench.reward(prompts=["a"], completion_ids=[[*item, 0]])
    assert with_end == bench.reward(prompts=["a"], completion_ids=[item])
    assert 0.0 <= with_end[0] <= 1.0
    bench.reward(prompts=["a"], completion_ids=[[1, 2, 3, 4]])
    assert bench.seen_items == [True, True, False]

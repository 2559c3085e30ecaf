"""Simulated users behind tools: as TRL reads the class, what the tools do, and TRL's own loop over them."""

from __future__ import annotations

import inspect
import json

import gymnasium
import numpy as np
import pytest

from llmrec.errors import RequestError
from llmrec.simulator.environments import ToolEnvironment, ToolEnvironments, WorldUsers, domain_users


@pytest.fixture(scope="module")
def factory():
    return ToolEnvironments("shop", users=20, items=30, slate_size=3, turns=4)


def test_trl_finds_two_tools_a_reset_and_a_reward(factory):
    from transformers.utils import get_json_schema

    names = {name for name, _ in inspect.getmembers(ToolEnvironment, predicate=inspect.isfunction)}
    assert {name for name in names if not name.startswith("_")} == {
        "reset",
        "get_reward",
        "search_items",
        "show_items",
    }
    told = {name: get_json_schema(getattr(factory(), name))["function"] for name in ("search_items", "show_items")}
    assert told["search_items"]["parameters"]["properties"]["words"]["type"] == "string"
    assert told["show_items"]["parameters"]["properties"]["titles"]["type"] == "array"


def test_a_visit_earns_what_the_environment_says(factory):
    """The same slates to the same visit of `RecEnv`, whose rewards are added up."""
    one = factory()
    row = factory.rows(3, seed=7)[2]
    assert (row["seed"], row["user"]) == (9, 2)
    said = one.reset(**row)
    assert "Visitor: " in said or "Before:" in said
    titles = factory.population.world.dataset.items["title"].to_list()
    plain = gymnasium.make("llmrec/Shop-v0", users=20, items=30, slate_size=3, turns=4).unwrapped
    plain.reset(seed=9, options={"user": 2})
    earned, over, turn = 0.0, False, 0
    while not over:
        slate = [(5 * turn + place) % 30 for place in range(3)]
        answer = one.show_items([titles[item] for item in slate])
        _, reward, left, cut, _ = plain.step(slate)
        earned, over, turn = earned + reward, left or cut, turn + 1
        assert ("is over" in answer or "left" in answer or "last list" in answer) == over
    assert one.get_reward() == earned
    assert one.show_items([titles[0]]) == "The visit is over."
    assert one.get_reward() == earned


def test_draws_of_a_group_meet_the_same_luck_and_other_visits_do_not(factory):
    row, titles = factory.rows(1, seed=3)[0], factory.population.world.dataset.items["title"].to_list()
    first, second = factory(), factory()
    assert first.reset(**row) == second.reset(**row)
    assert [first.show_items(titles[n : n + 3]) for n in range(3)] == [
        second.show_items(titles[n : n + 3]) for n in range(3)
    ]
    assert first.get_reward() == second.get_reward()
    assert first.reset(**row)
    assert first.get_reward() == 0.0
    earned = []
    for other in factory.rows(40, seed=100):
        first.reset(**{**other, "user": 0})
        first.show_items(titles[:3])
        earned.append(first.get_reward())
    assert np.std(earned) > 0


def test_what_does_not_exist_shows_nothing(factory):
    one = factory()
    one.reset(**factory.rows(1, seed=0)[0])
    said = one.show_items(["<script>alert(1)</script>\x1b[31m", "Nothing like it"])
    assert "Nothing was shown" in said
    assert "\x1b" not in said
    assert one.get_reward() == 0.0
    assert one.search_items("zzzz") == "Nothing in the catalogue speaks of that."
    category = factory.population.world.dataset.item_list[0].categories[0]
    found = one.search_items(category).splitlines()
    items = {item.title: item for item in factory.population.world.dataset.item_list}
    assert found
    assert all(category in (*items[title].categories, items[title].description) for title in found[:1])


def test_refusals_name_the_mend(factory):
    with pytest.raises(RequestError, match=r"ToolEnvironments\.rows"):
        factory().reset(prompt=[])
    with pytest.raises(RequestError, match="call reset"):
        factory().get_reward()
    with pytest.raises(RequestError, match="1 or more"):
        factory.rows(0, seed=0)
    people = domain_users("shop", users=10, items=12)
    bare = WorldUsers(people.world.truth)
    with pytest.raises(RequestError, match="catalogue="):
        ToolEnvironments("shop", population=bare)
    with pytest.raises(RequestError, match="12"):
        ToolEnvironments("shop", population=bare, catalogue=factory.population.world.dataset.item_list)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_grpo_of_trl_trains_on_visits(factory, tmp_path, monkeypatch):
    """TRL's trainer itself, its loop of tools and its update; what is generated is put into its mouth."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.chat_template_utils import qwen3_chat_template

    from llmrec.config import ModelConfig
    from llmrec.policy.nano import make_nano, train_tokenizer

    marks = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
    titles = factory.population.world.dataset.items["title"].to_list()
    tokenizer = train_tokenizer([*titles, factory.task] * 3, 600)
    tokenizer.add_tokens(marks)
    tokenizer.chat_template = qwen3_chat_template
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), seed=0)
    tokenizer.eos_token = "<|im_end|>"

    def earned(shown):
        one, found = factory(), []
        for row in factory.rows(4, seed=0):
            one.reset(**row)
            one.show_items(shown)
            found.append(one.get_reward())
        return found

    shown = max((titles[n : n + 3] for n in range(0, 30, 3)), key=lambda slate: sum(earned(slate)))
    call = json.dumps({"name": "show_items", "arguments": {"titles": shown}})
    words = tokenizer(f"<tool_call>\n{call}\n</tool_call><|im_end|>", add_special_tokens=False)["input_ids"]
    arguments = GRPOConfig(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=400,
        max_tool_calling_iterations=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(factory.rows(4, seed=0)),
        environment_factory=factory,
    )
    generate = trainer._generate_single_turn

    def say(prompt_ids, *more, **named):
        _, *rest = generate(prompt_ids, *more, **named)
        return [words] * len(prompt_ids), *rest

    monkeypatch.setattr(trainer, "_generate_single_turn", say)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(log) == 2
    assert all(entry["tools/call_frequency"] >= 1 and entry["tools/failure_frequency"] == 0 for entry in log)
    assert all(entry["rewards/ToolEnvironment/std"] == 0 for entry in log), "one slate, one luck: a group is equal"
    assert sum(earned(shown)) > 0
    assert {entry["rewards/ToolEnvironment/mean"] for entry in log} <= set(earned(shown))

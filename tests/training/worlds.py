"""Reward models whose right answer is known: a user who likes a colour is to get that colour's lamp."""

from __future__ import annotations

import numpy as np

from llmrec.config import LoraSettings, PPOSettings
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.on_policy import train_on_policy
from llmrec.training.sft_data import SFTRow
from llmrec.types import Reward
from tests.training.conftest import COLOURS, THINGS

SMALL = PPOSettings(
    steps=4, prompts=4, draws=3, minibatches=2, iterations=2, save_every=2, lora=LoraSettings(rank=4, alpha=8)
)


def best(states):
    """The lamp of each state's colour: item 0, 3, 6 or 9."""
    return np.array([3 * COLOURS.index(state.profile.split()[-1]) for state in states])


def lamps(states, items_BK):
    """Clicks on the colour, conversions on its lamp."""
    right = best(states)[:, None]
    click, conversion = (items_BK // 3 * 3 == right).astype(float), (items_BK == right).astype(float)
    return Reward(0.5 * click + conversion, {"click": click, "conversion": conversion})


def answers(shop, number):
    """So many rows that ask for a thing and are answered by its first colour."""
    rows = []
    for n in range(number):
        thing = n % 3
        prompt = shop.tokenizer(f"the home {THINGS[thing]} painted {n % 5}", add_special_tokens=False)["input_ids"]
        tokens = shop.catalogue.token_ids(thing)
        rows.append(SFTRow((*prompt, *map(int, tokens)), len(tokens), thing))
    return rows


def run(
    shop,
    out,
    settings=SMALL,
    *,
    model=None,
    states=24,
    repeat="allow",
    reward=lamps,
    seed=5,
    on_checkpoint=None,
    report_to=(),
    rehearsed=None,
    **more,
):
    given = shop.states(states) if isinstance(states, int) else states
    model = shop.model() if model is None else model
    start = WarmStart(model, shop.tokenizer, shop.catalogue, shop.renderer, repeat, seed, rehearsed)
    seen = [np.array([], dtype=np.int64)] * len(given)
    return train_on_policy(start, given, seen, reward, settings, Checkpointing(out, on_checkpoint, report_to), **more)

"""Untrained nano policies of one small shop, in each way of writing items and prompts."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from llmrec.catalogue import Catalogue
from llmrec.config import CardSettings, ModelConfig
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.new_tokens import add_words
from llmrec.text.render import StateRenderer
from llmrec.types import Interaction, Item, State

COLOURS, THINGS = ("Red", "Green", "Blue", "Grey"), ("Lamp", "Chair", "Desk")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ITEMS = tuple(
    Item(f"i{n}", f"{c} {t}", f"A {t.lower()} painted {c.lower()}.", (t, "Home"), f"Maker {c}", 3.0 + n)
    for n, (c, t) in enumerate((c, t) for c in COLOURS for t in THINGS)
)
WAYS = ("titles", "chat", "list", "cards", "short", "semantic", "both")
"""short: so little room that older entries are left out of the prompt."""


def events(*items, feedback="click", start=0):
    return tuple(Interaction(i, feedback, start + n) for n, i in enumerate(items))


STATE = State(
    "u",
    "A 34-year-old nurse. Likes lamps; hates desks.",
    (*events(0, 4, 7), *events(2, feedback="conversion", start=10), *events(0, 9, start=20)),
    events(5, feedback="impression", start=30),
    "something for the kitchen",
    100,
)


@lru_cache
def policy_of(way: str) -> LanguagePolicy:
    torch.set_num_threads(1)
    texts = [f"{i.title} {i.description} {i.brand}" for i in ITEMS] * 3 + [
        "Profile: History: (clicked) Next product:"
    ]
    tokenizer = train_tokenizer(texts, 400)
    if way == "chat":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHATML
    words = tuple(f"<a_{n // 3}><b_{n % 3}>" for n in range(12)) if way in ("semantic", "both") else None
    new = add_words(tokenizer, [f"<a_{n}>" for n in range(4)] + [f"<b_{n}>" for n in range(3)]) if words else []
    renderer = StateRenderer(
        ITEMS,
        tokenizer,
        domain="shop",
        language="en",
        max_tokens=130 if way == "short" else 300,
        frame="list" if way == "list" else "ask",
        card=CardSettings(attributes=("categories", "brand", "price"), description=8) if way == "cards" else None,
        identifiers=words,
        history={"semantic": "id", "both": "both"}.get(way, "title"),
        currency="USD",
    )
    ids = [item.item_id for item in ITEMS]
    if words:
        rows = [[new[n // 3], new[4 + n % 3]] for n in range(12)]
        catalogue = Catalogue.from_sequences(ids, renderer.titles, rows, tokenizer, scheme="semantic")
    else:
        catalogue = Catalogue.from_titles(ids, renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=2), 0).eval()
    with torch.no_grad():  # far from flat, so that parts matter
        for parameter in model.parameters():
            parameter.add_(
                0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
            )
    return LanguagePolicy(model, tokenizer, catalogue, renderer, "exclude")


@pytest.fixture(params=WAYS)
def policy(request):
    return policy_of(request.param)

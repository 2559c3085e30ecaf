"""A small byte-level BPE tokenizer trained on the spot, and items to word."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llmrec.types import Interaction, Item

CORPUS = [
    "Profile: woman, 34, likes cooking\nHistory: Red Kettle (clicked); Blue Mug (bought); Steel Knife (rated 4)",
    "This visit: Wooden Spoon (skipped)\nRequest: something for tea\nNext product: Green Teapot",
    "Description: A sturdy kettle of steel that boils a litre of water in two minutes.\nProduct: Red Kettle",
    "用户画像：女，34岁，喜欢做饭\n历史：红水壶（点击）；蓝杯（购买）\n下一件商品：绿茶壶",
    "system user assistant model human You are a helpful assistant. INST SYS im_start im_end eot_id end_of_turn",
]

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
LLAMA = """<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
GEMMA = """<bos>{% for m in messages %}<start_of_turn>{{ m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
INST = "{% for m in messages %}<s>[INST] {{ m.content }} [/INST]{% endfor %}"

CHATS: dict[str, tuple[str, list[str], list[str]]] = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], ["<think>", "</think>", "<tool_call>"]),
    "llama": (LLAMA, ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], []),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], ["<table>", "[@BOS@]"]),
    "inst": (INST, ["<s>", "</s>", "[INST]", "[/INST]"], ["[TOOL_CALLS]"]),
}


def train_tokenizer(special: list[str], added: list[str] = (), *, chat: str | None = None) -> Any:  # type: ignore[assignment]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", additional_special_tokens=special
    )
    fast.add_tokens(list(added))
    fast.chat_template = chat
    return fast


@pytest.fixture(scope="session")
def base() -> Any:
    return train_tokenizer([])


@pytest.fixture(scope="session")
def chats() -> dict[str, Any]:
    return {name: train_tokenizer(special, added, chat=text) for name, (text, special, added) in CHATS.items()}


@pytest.fixture(scope="session")
def bos() -> Any:
    """A base tokenizer that puts a BOS in front of a text and an end token behind it."""
    fast = train_tokenizer(["<s>"])
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|endoftext|>",
        special_tokens=[(t, fast.convert_tokens_to_ids(t)) for t in ("<s>", "<|endoftext|>")],
    )
    return fast


NAMES = ["Red Kettle", "Blue Mug", "Steel Knife", "Green Teapot", "Wooden Spoon", "Copper Pan", "Glass Bowl"]


@pytest.fixture(scope="session")
def items() -> list[Item]:
    return [
        Item(f"p{n}", name, f"A sturdy {name.lower()} for every kitchen.", ("Kitchen", name.split()[1]), "Acme", 19.9)
        for n, name in enumerate(NAMES)
    ]


def clicks(*rows: int, feedback: str = "click") -> tuple[Interaction, ...]:
    return tuple(Interaction(row, feedback, time) for time, row in enumerate(rows))  # type: ignore[arg-type]

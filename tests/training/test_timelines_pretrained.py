"""On a real pretrained model: a packed window is its rows, in loss and gradient, and is read in a fraction of the time.

LLMREC_PRETRAINED names the model's folder, such as one of SmolLM2-135M-Instruct; one that cannot share is no use here.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import LoraSettings, SFTSettings
from llmrec.dataset.timelines import Timelines
from llmrec.policy.loading import load_causal_lm, load_tokenizer
from llmrec.policy.modes import base_model
from llmrec.text.render import StateRenderer
from llmrec.training.lora import make_lora
from llmrec.training.packed import collate, pack
from llmrec.training.sft_data import RowEncoder
from llmrec.training.timelines import windows
from llmrec.training.trl_seam.sft import predictions
from tests.policy.test_forest import plain_choices, plain_loss
from tests.training.conftest import timeline

FOLDER = os.environ.get("LLMREC_PRETRAINED", "")


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="LLMREC_PRETRAINED names no model folder")
@pytest.mark.parametrize("likelihood", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("chat", [None, False])
def test_a_window_of_a_pretrained_model_is_its_rows(shop, chat, likelihood):
    tokenizer = load_tokenizer(FOLDER)
    model = make_lora(load_causal_lm(FOLDER, dtype="float32"), LoraSettings(rank=4), seed=0)
    with torch.no_grad():  # a fresh adapter's second matrices are 0, and so are the gradients of its first ones
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    renderer = StateRenderer(shop.items, tokenizer, domain="shop", language="en", max_tokens=400, chat=chat)
    names = [item.item_id for item in shop.items]
    catalogue = Catalogue.from_titles(names, renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix)
    encoder = RowEncoder(shop.items, catalogue, renderer, tokenizer)
    users = Timelines((timeline(range(0, 70, 10)),), 20)
    settings = SFTSettings(window=7, history_dropout=0.0)
    window = max(windows(users, renderer, settings, np.random.default_rng(3)), key=len)
    rows = encoder.next_items(window)
    index = catalogue.index if likelihood == "catalogue" else None
    packed = pack([[rows]], index=index)
    assert packed.packing.packed < packed.packing.apart / 2
    results = []
    for loss in (
        predictions(collate([packed.data[0]]), index).answer(base_model(model))["loss"],
        plain_loss(model, rows) if index is None else plain_choices(model, rows, index),
    ):
        model.zero_grad()
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
        results.append((float(loss.detach()), torch.cat(grads)))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert float((our_gradient - their_gradient).norm()) <= 1e-4 * float(their_gradient.norm())

"""The sliced output head against the model's own logits, with rows that PEFT trains token by token."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llmrec.policy.heads import checked_head
from llmrec.policy.modes import decoder_of, device_of, dtype_of, embedding_of
from tests.policy.tiny import BASE, tiny_model

TOKENS = [3, 41, 17]


def with_trained_rows(name, tied):
    model = tiny_model(name)
    model.config.tie_word_embeddings = tied
    if tied:
        model.tie_weights()
        assert model.lm_head.weight is model.model.embed_tokens.weight
    layers = {"model.embed_tokens": TOKENS} | ({} if tied else {"lm_head": TOKENS})
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=layers)
    peft = get_peft_model(model, config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in peft.named_parameters():
            if "trainable_tokens_delta" in parameter_name:
                parameter.add_(torch.randn_like(parameter))
    return peft


@pytest.mark.parametrize("tied", [False, True])
def test_rows_trained_by_peft_are_those_of_the_head(tied):
    peft = with_trained_rows("llama", tied)
    ids = torch.randint(2, BASE["vocab_size"], (2, 7))
    wanted = torch.tensor([41, 5, 3, 17, 59, 0])
    hidden = decoder_of(peft)(input_ids=ids).last_hidden_state[:, -1]
    theirs = peft(input_ids=ids).logits[:, -1, wanted]
    head = checked_head(peft)
    assert head.is_plain
    torch.testing.assert_close(head.logits(hidden, wanted), theirs)
    edges = head.edge_logits(hidden, torch.tensor([0, 1, 1]), torch.tensor([3, 3, 59]))
    torch.testing.assert_close(edges, torch.stack([theirs[0, 2], theirs[1, 2], theirs[1, 4]]))
    names = [n for n, p in peft.named_parameters() if "trainable_tokens_delta" in n]
    weights = [p for n, p in peft.named_parameters() if n in names]
    ours = torch.autograd.grad(head.logits(hidden, wanted)[:, :3].sum(), weights, retain_graph=True)
    plain = torch.autograd.grad(theirs[:, :3].sum(), weights)
    assert names
    torch.testing.assert_close(ours, plain)
    with peft.disable_adapter():
        hidden = decoder_of(peft)(input_ids=ids).last_hidden_state[:, -1]
        torch.testing.assert_close(
            checked_head(peft).logits(hidden, wanted), peft(input_ids=ids).logits[:, -1, wanted]
        )


def test_the_stored_embedding_is_found_below_peft():
    peft = with_trained_rows("qwen3", False)
    assert (
        embedding_of(peft).data_ptr()
        == peft.get_base_model().get_input_embeddings().original_module.weight.data_ptr()
    )
    assert dtype_of(peft) == torch.float64
    assert device_of(peft).type == "cpu"

"""Exactness of pi: against brute force over the model's own full logits, one unpadded sequence at a time."""

from __future__ import annotations

import copy
from decimal import Decimal, localcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llmrec.errors import CatalogueError, RequestError, RunError
from llmrec.policy import sharing
from llmrec.policy.edges import Edges
from llmrec.policy.modes import flags
from llmrec.policy.scoring import exact_kl_BGL, score_items
from llmrec.policy.sharing import supports_sharing
from llmrec.policy.without_replacement import slot_log_probs
from tests.policy.tiny import (
    ITEMS,
    OTHERS,
    SHARING,
    brute_log_pi,
    brute_steps,
    index_of,
    legal_tokens,
    prompts,
    tiny_model,
    unpadded,
)

IDS, MASK = prompts()
INDEX = index_of()
EVERY = torch.arange(len(ITEMS)).expand(3, -1)
EXCLUDE = torch.tensor([[0, 4, 5, -1], [-1, -1, -1, -1], [8, 9, 10, 11]])


def allowed_of(user):
    return [i for i in range(len(ITEMS)) if i not in EXCLUDE[user].tolist()]


def gradient(model, value):
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "path"),
    [("qwen3", "auto"), ("qwen3", "plain"), ("gemma3-window", "auto"), ("gpt2", "auto"), ("mamba", "auto")],
)
def test_pi_equals_brute_force_and_sums_to_one(name, path):
    model = tiny_model(name)
    with torch.no_grad():
        for exclude in (None, EXCLUDE):
            scores = score_items(model, IDS, MASK, EVERY, INDEX, exclude=exclude, path=path, temperature=0.7)
            got = scores.item_log_prob_BG
            assert torch.allclose(got.exp().sum(-1), torch.ones(3, dtype=got.dtype), atol=1e-9)
            for user, prompt in enumerate(unpadded(IDS, MASK)):
                allowed = None if exclude is None else allowed_of(user)
                expected = brute_log_pi(model, prompt, allowed=allowed, temperature=0.7)
                for item in range(len(ITEMS)):
                    want = float(expected.get(item, -torch.inf))
                    assert float(got[user, item]) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_plain_in_value_and_gradient(name, attention):
    """With padding, ragged and repeated items, exclusions; windows of 4 are shorter than the prompts."""
    # norms are in float32 inside the models, and so is the softmax of eager attention
    dtype, tolerance = (torch.float64, 5e-7) if attention == "sdpa" else (torch.float32, 1e-5)
    model = tiny_model(name, dtype, attention)
    assert supports_sharing(model)
    items = torch.tensor([[1, 3, 3, 6], [5, 0, 11, 2], [4, 4, 4, 7]])
    results = {}
    for path in ("plain", "packed"):
        scores = score_items(model, IDS, MASK, items, INDEX, exclude=EXCLUDE[:, :1] * 0 + 9, path=path)
        loss = (scores.log_prob_BGL * torch.linspace(-1, 2, scores.log_prob_BGL.shape[-1])).sum()
        loss = loss + scores.entropy_BGL.sum() + scores.hidden_BGLH.square().sum() * 0.1
        results[path] = (scores, gradient(model, loss))
    (plain, plain_grad), (packed, packed_grad) = results["plain"], results["packed"]
    for field in ("log_prob_BGL", "entropy_BGL", "hidden_BGLH", "choice_BGL"):
        one, two = getattr(plain, field).double(), getattr(packed, field).double()
        assert torch.allclose(one, two, atol=tolerance * 10, rtol=tolerance), field
    assert plain_grad.keys() == packed_grad.keys()
    total = sum(g.double().square().sum() for g in plain_grad.values()).sqrt()
    apart = sum((plain_grad[n] - packed_grad[n]).double().square().sum() for n in plain_grad).sqrt()
    assert apart <= tolerance * total


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_unsupported_architectures_take_the_plain_path(name):
    model = tiny_model(name, torch.float32)
    assert name in OTHERS
    assert supports_sharing(model) is False
    got = score_items(model, IDS, MASK, EVERY, INDEX).item_log_prob_BG
    expected = brute_log_pi(model, unpadded(IDS, MASK)[1])
    assert torch.allclose(got[1], torch.stack([expected[i] for i in range(len(ITEMS))]), atol=1e-4)


def test_gradient_equals_that_of_brute_force():
    model = tiny_model("qwen3")
    got = gradient(model, score_items(model, IDS, MASK, EVERY[:, 3:4], INDEX).item_log_prob_BG.sum())
    want = gradient(model, sum(brute_log_pi(model, prompt)[3] for prompt in unpadded(IDS, MASK)))
    for name, value in want.items():
        assert torch.allclose(value, got[name], atol=1e-6, rtol=1e-6), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_in_the_layers_and_on_the_head(checkpointing):
    base = tiny_model("qwen3")
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj", "lm_head"], init_lora_weights=False)
    model = get_peft_model(base, config).double()
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    results = []
    for path in ("plain", "packed"):
        scores = score_items(model, IDS, MASK, EVERY, INDEX, path=path)
        results.append((scores.item_log_prob_BG.detach(), gradient(model, scores.log_prob_BGL[:, 3].sum())))
    (one, grad_one), (two, grad_two) = results
    assert torch.allclose(one, two, atol=1e-9)
    assert len(grad_one) == 2 * (2 + 2 + 1)
    assert all(torch.allclose(grad_one[name], grad_two[name], atol=1e-9) for name in grad_one)
    model.eval()
    with torch.no_grad():
        expected = brute_log_pi(model, unpadded(IDS, MASK)[0])
    assert torch.allclose(one[0], torch.stack([expected[i] for i in range(len(ITEMS))]), atol=1e-9)


def test_token_by_token_fields_against_brute_force():
    model = tiny_model("llama")
    with torch.no_grad():
        scores = score_items(model, IDS, MASK, EVERY, INDEX)
        prompt = unpadded(IDS, MASK)[1]
        hidden = model.model(input_ids=torch.tensor([[*prompt, 5, 8, 9, 10]])).last_hidden_state[0]
        for item, row in enumerate(ITEMS):
            steps = brute_steps(model, prompt, item, ITEMS)
            for level, (token, step) in enumerate(zip(row, steps, strict=True)):
                legal = legal_tokens(row[:level], ITEMS)
                entropy = -sum(p.exp() * p for p in step.values())
                assert float(scores.log_prob_BGL[1, item, level]) == pytest.approx(float(step[token]), abs=1e-9)
                assert float(scores.entropy_BGL[1, item, level]) == pytest.approx(float(entropy), abs=1e-9)
                assert bool(scores.choice_BGL[1, item, level]) == (len(legal) > 1)
                if len(legal) > 1:
                    of_step = scores.edges.state_E == scores.state_BGL[1, item, level]
                    assert scores.edge_log_prob_E[of_step].tolist() == pytest.approx(
                        [float(step[t]) for t in legal], abs=1e-9
                    )
            assert not scores.choice_BGL[1, item, len(row) :].any()
            assert (scores.log_prob_BGL[1, item, len(row) :] == 0).all()
    assert torch.allclose(scores.hidden_BGLH[1, 3, 0], hidden[len(prompt) - 1])
    assert torch.allclose(scores.hidden_BGLH[1, 3, 4], hidden[len(prompt) + 3])


def test_exact_kl_is_the_kl_over_items():
    policy, reference = tiny_model(seed=0), tiny_model(seed=5)
    with torch.no_grad():
        for exclude in (None, EXCLUDE):
            ours, theirs = (score_items(m, IDS, MASK, EVERY, INDEX, exclude=exclude) for m in (policy, reference))
            by_token = (ours.item_log_prob_BG.exp() * exact_kl_BGL(ours, theirs).sum(-1)).sum(-1)
            log_p, log_q = ours.item_log_prob_BG, theirs.item_log_prob_BG
            by_item = torch.where(log_p.isfinite(), log_p.exp() * (log_p - log_q), 0.0).sum(-1)
            assert torch.allclose(by_token, by_item, atol=1e-9)
            assert (exact_kl_BGL(ours, theirs) >= -1e-12).all()
            assert (exact_kl_BGL(ours, ours) == 0).all()


def test_scores_do_not_depend_on_the_side_of_the_padding_or_the_batch():
    model = tiny_model("qwen3")
    with torch.no_grad():
        left = score_items(model, IDS, MASK, EVERY, INDEX).item_log_prob_BG
        width = IDS.shape[1]
        right_ids, right_mask = torch.zeros_like(IDS), torch.zeros_like(MASK)
        for b, prompt in enumerate(unpadded(IDS, MASK)):
            right_ids[b, : len(prompt)], right_mask[b, : len(prompt)] = torch.tensor(prompt), 1
        right = score_items(model, right_ids, right_mask, EVERY, INDEX).item_log_prob_BG
        alone = score_items(model, IDS[1:2, width - 5 :], MASK[1:2, width - 5 :], EVERY[:1], INDEX).item_log_prob_BG
    assert torch.allclose(left, right, atol=1e-9)
    assert torch.allclose(left[1:2], alone, atol=1e-9)


def test_one_item_and_forced_roots():
    model = tiny_model("qwen3")
    single = score_items(model, IDS, MASK, torch.zeros((3, 2), dtype=torch.long), index_of([(5, 6, 1)]))
    assert (single.item_log_prob_BG == 0).all()
    assert not single.choice_BGL.any()
    pair = score_items(model, IDS, MASK, torch.tensor([[0, 1]] * 3), index_of([(5, 6, 1), (5, 7, 1)]))
    assert torch.allclose(pair.item_log_prob_BG.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert pair.choice_BGL[0].tolist() == [[False, True, False]] * 2
    assert (pair.hidden_BGLH[:, :, 0] != 0).any()


def test_bad_requests_are_refused_with_one_sentence():
    model = tiny_model("qwen3")
    nothing = torch.stack([torch.full((12,), -1), torch.arange(12), torch.full((12,), -1)])
    small, long = tiny_model("qwen3"), torch.ones((1, 95), dtype=torch.long)
    small.resize_token_embeddings(40, mean_resizing=False)
    cases = {
        "All items are excluded for state number 1;": (model, IDS, MASK, EVERY, nothing),
        "A prompt is empty;": (model, IDS, MASK * 0, EVERY, None),
        "items_BG holds item index -1;": (model, IDS, MASK, torch.tensor([[0, -1]] * 3), None),
        "items_BG holds item index 12;": (model, IDS, MASK, torch.tensor([[0, 12]] * 3), None),
        "exclude holds item index 12;": (model, IDS, MASK, EVERY, torch.tensor([[12]] * 3)),
        r"items_BG is \(2, 12\);": (model, IDS, MASK, EVERY[:2], None),
        r"items_BG is \(3, 0\);": (model, IDS, MASK, EVERY[:, :0], None),
        "Items hold token 41, but the model has 40 tokens;": (small, IDS % 40, MASK, EVERY, None),
        "A prompt of 95 tokens and an item of 8": (model, long, long, EVERY[:1], None),
    }
    for sentence, (policy, ids, mask, items, exclude) in cases.items():
        with pytest.raises((RequestError, CatalogueError), match=sentence) as caught:
            score_items(policy, ids, mask, items, INDEX, exclude=exclude)
        assert "\n" not in str(caught.value)
    with pytest.raises(CatalogueError, match="Prompts hold token 60"):
        score_items(model, IDS.clamp(min=60), MASK, EVERY, INDEX)


def test_autocast_does_not_change_the_answer_of_the_trial():
    model = tiny_model("qwen3", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert supports_sharing(model)
        score_items(model, IDS, MASK, EVERY, INDEX).item_log_prob_BG.sum().backward()


def test_broken_weights_give_a_clear_error():
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="not finite"):
        score_items(model, IDS, MASK, EVERY, INDEX)


def test_a_head_that_does_more_is_noticed():
    model = tiny_model("qwen3")
    forward = model.forward

    def shifted(*arguments, **options):
        out = forward(*arguments, **options)
        out.logits = out.logits * 2 + torch.arange(out.logits.shape[-1])
        return out

    model.forward = shifted
    with pytest.raises(RunError, match="output head of Qwen3ForCausalLM"):
        score_items(model, IDS, MASK, EVERY, INDEX)


def test_a_window_longer_than_the_short_trial_is_tried_when_it_matters():
    model = tiny_model("mistral-window")
    model.config.sliding_window = 30
    assert supports_sharing(model, 20)
    assert "windowed" not in " ".join(flags(model))
    assert supports_sharing(model, 40)
    assert "windowed" in " ".join(flags(model))


def test_float32_and_bfloat16_models():
    with torch.no_grad():
        exact = score_items(tiny_model("qwen3"), IDS, MASK, EVERY, INDEX).item_log_prob_BG
        single = score_items(tiny_model("qwen3", torch.float32), IDS, MASK, EVERY, INDEX).item_log_prob_BG
        half_model = tiny_model("qwen3").bfloat16()
        half = score_items(half_model, IDS, MASK, EVERY, INDEX).item_log_prob_BG
    assert single.dtype == torch.float32
    assert half.dtype == torch.float32
    assert supports_sharing(half_model)
    assert torch.allclose(half.exp().sum(-1), torch.ones(3), atol=1e-5)
    assert exact.shape == half.shape


@pytest.mark.parametrize(("name", "shares"), [("qwen3", True), ("bloom", False)])
def test_what_half_precision_rounds_away_is_told_in_float32(name, shares, monkeypatch):
    """Trained models of 30 layers rounded by more than what a wrong position changes, and were read the slow way."""
    monkeypatch.setitem(sharing._TOLERANCE, torch.bfloat16, 1e-9)
    monkeypatch.setattr(sharing, "_ROUNDED", torch.inf)
    model = tiny_model(name).bfloat16()
    model.register_buffer("scale", torch.ones(2, dtype=torch.bfloat16))
    before = {n: (t.data_ptr(), t.clone()) for n, t in model.state_dict().items()}
    assert supports_sharing(model) is shares
    for n, tensor in model.state_dict().items():
        assert tensor.data_ptr() == before[n][0], n
        assert tensor.dtype == before[n][1].dtype, n
        assert torch.equal(tensor, before[n][1]), n
    for limit, value in (("_WIDENED", 10), ("_ROUNDED", 1e-9)):
        with monkeypatch.context() as limited:
            limited.setattr(sharing, limit, value)
            assert supports_sharing(tiny_model(name).bfloat16()) is False


def _one_pair(logits):
    """A pair of a user and a prefix with one edge for each of the logits."""
    count, place = len(logits), torch.arange(len(logits))
    zero = torch.zeros(1, dtype=torch.long)
    return Edges(zero, zero, zero + count, zero, torch.zeros(count, dtype=torch.long), place, place)


@pytest.mark.parametrize("lead", [1.0, 8.0, 14.7, 18.0, 22.0])
def test_slots_of_a_peaked_policy_keep_their_digits(lead):
    """float32 logits, against 60 digits: at a lead of 14.7 all but 6e-7 of the mass is on one item."""
    logits = torch.tensor([lead, 0.0, -0.5, -1.0, -3.0, -4.0])
    with localcontext() as context:
        context.prec = 60
        weight = [Decimal(float(value)).exp() for value in logits]
        left, wanted = sum(weight), []
        for value in weight[:4]:
            wanted.append(float((value / left).ln()))
            left -= value
    found = slot_log_probs(_one_pair(logits).log_softmax(logits)[None, :4])[0]
    assert found[1:].tolist() == pytest.approx(wanted[1:], abs=2e-6)
    assert float(found[0]) == pytest.approx(wanted[0], rel=1e-6)


def test_items_of_a_peaked_model_are_scored_as_in_float64():
    """A float32 model whose best item has all but about 1e-6 of the mass: its slots are those of the same in float64."""
    model = tiny_model("qwen3").float()
    with torch.no_grad():
        model.get_output_embeddings().weight *= 17.0
        order = score_items(model, IDS, MASK, EVERY, INDEX).item_log_prob_BG.argsort(1, descending=True)[:, :3]
        single = score_items(model, IDS, MASK, order, INDEX)
        exact = score_items(copy.deepcopy(model).double(), IDS, MASK, order, INDEX)
    rest = -torch.expm1(exact.exact_BG[:, 0])
    assert 1e-9 < float(rest.min()) < 1e-5  # float32 tells 1 - p to about 1e-6 at these logits
    assert single.exact_BG.dtype == torch.float64
    found, wanted = slot_log_probs(single.exact_BG), slot_log_probs(exact.exact_BG)
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=0)

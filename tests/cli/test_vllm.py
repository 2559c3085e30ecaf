"""vLLM's place held by a stand-in (tests/cli/vllm_stub): what is drawn is pi, what is searched is the policy's list."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from llmrec.catalogue.filters import Filters
from llmrec.cli.main import app
from llmrec.errors import RequestError, RunError
from llmrec.export import read_items
from llmrec.policy.constrained_rows import TreeWalk
from llmrec.policy.loading import load_causal_lm
from llmrec.recommender import Recommender
from llmrec.vllm_engine.arguments import Asked, read_arguments, sampling_arguments
from llmrec.vllm_engine.backend import PROCESSOR, open_vllm, read_engine_arguments
from tests import forked
from tests.cli import tiny
from tests.policy.tiny import brute_steps

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).parent / "vllm_stub"
ROUGH = {"max_num_seqs": 5, "long_prefill_token_threshold": 20, "preemption": 0.15}
OURS = ("vllm", "llmrec.vllm_engine.processor")


def forget_modules():
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    forget_modules()
    import vllm

    assert vllm.STUB
    yield vllm
    forget_modules()


@pytest.fixture(scope="module")
def prompts(recommender):
    users = recommender.data.users["user_id"].to_list()[:4]
    return [recommender.bundle.policy.renderer.token_ids(recommender.user_state(user)[0]) for user in users]


def asked_of(recommender):
    """Filters, and the items that each of them leaves."""
    items = recommender.bundle.items
    ids = [item.item_id for item in items]
    kind = items[0].categories[0]
    return {
        Filters(): range(len(ids)),
        Filters(exclude=tuple(ids[:30])): range(30, len(ids)),
        Filters(candidates=(ids[3], ids[8], ids[20])): [3, 8, 20],
        Filters(categories=(kind,)): [n for n, item in enumerate(items) if kind in item.categories],
    }


def user_of(run):
    return str(Recommender.load(run).data.users["user_id"][0])


def greedy(model, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_drawn_is_pi_of_what_each_request_allows_whatever_happens_to_its_row(
    vllm, run, recommender, prompts, ahead
):
    """Each step's log-probabilities of all tokens are those of a plain forward over the enumerated legal ones."""
    catalogue, _ = read_items(run)
    rows = [tuple(t for t in row if t >= 0) for row in catalogue.tokens_NL.tolist()]
    llm = vllm.LLM(
        model=str(run),
        logits_processors=[PROCESSOR],
        logprobs_mode="processed_logprobs",
        max_logprobs=-1,
        async_scheduling=ahead,
        **ROUGH,
    )
    cases = [(p, f, kept) for p in prompts for f, kept in asked_of(recommender).items()]
    width = int(catalogue.index.degree_M.max())
    params = [
        vllm.SamplingParams(**sampling_arguments(catalogue, filters), n=3, logprobs=width) for _, filters, _ in cases
    ]
    free = vllm.SamplingParams(max_tokens=3, temperature=0.0)  # requests of others take the same rows in turn
    given = [
        ({"prompt_token_ids": p}, one)
        for (p, _, _), asked in zip(cases, params, strict=True)
        for one in (asked, free)
    ]
    answers = llm.generate(*map(list, zip(*given * 2, strict=True)), use_tqdm=False)
    wanted = [name for name, count in llm.seen.items() if not count]
    assert wanted == ([] if ahead else ["filled in"])  # all that may happen to a row has happened

    walk, model = TreeWalk(catalogue.index), load_causal_lm(str(run)).double()
    drawn = set()
    for answer, (prompt, _, _) in zip(answers[1::2], cases * 2, strict=True):
        assert answer.outputs[0].token_ids == greedy(model, prompt, 3)
    for answer, (prompt, _, kept) in zip(answers[::2], cases * 2, strict=True):
        for output in answer.outputs:
            item = walk.item_of(output.token_ids, catalogue.end_token)
            assert item in kept
            assert tuple(output.token_ids) == rows[item]
            drawn.add(item)
            with torch.no_grad():
                steps = brute_steps(model, prompt, item, rows, allowed=list(kept))
            for told, step in zip(output.logprobs, steps, strict=True):
                alive = {t: one.logprob for t, one in told.items() if one.logprob > -float("inf")}
                assert alive == pytest.approx({t: float(p) for t, p in step.items()}, abs=1e-9)
    assert len(drawn) > 15


def test_a_request_that_cannot_be_read_is_refused_and_one_without_items_ends_at_once(vllm, run, prompts):
    from vllm.v1.sample.logits_processor import BatchUpdate

    catalogue, items = read_items(run)
    llm = vllm.LLM(model=str(run), logits_processors=[PROCESSOR])
    with pytest.raises(ValueError, match="Key 'llmrec_exclude' of extra_args must be a list of texts"):
        llm.generate(
            [{"prompt_token_ids": [5]}], vllm.SamplingParams(extra_args={"llmrec": True, "llmrec_exclude": 3})
        )
    llm.processors[0].update_state(
        BatchUpdate(1, [], [(0, vllm.SamplingParams(extra_args={"llmrec": "?"}), None, [])], [])
    )
    logits = llm.processors[0].apply(torch.zeros(1, 600))  # an engine that did not ask whether it can be read
    assert torch.isfinite(logits[0]).nonzero().flatten().tolist() == [catalogue.end_token]
    nothing = Filters(exclude=tuple(item.item_id for item in items))
    (answer,) = llm.generate(
        [{"prompt_token_ids": prompts[0]}], vllm.SamplingParams(**sampling_arguments(catalogue, nothing))
    )
    assert answer.outputs[0].token_ids == [catalogue.end_token]


def test_lists_are_those_of_torch(vllm, run, recommender):
    """Beams, proofs, filters and bounds on the slate; prompts and prefixes go through the engine in rough weather."""
    other = Recommender.load(run, engine=partial(open_vllm, arguments=ROUGH))
    kind = recommender.bundle.items[0].categories[0]
    asked = [
        {"k": 5},
        {"k": 3, "exact": True, "exclude_seen": True},
        {"k": 4, "filters": Filters(categories=(kind,))},
        {"k": 6, "filters": Filters(max_per_category=2)},
    ]
    for user in recommender.data.users["user_id"].to_list()[:2]:
        for options in asked:
            mine, theirs = (one.recommend(user=user, **options).items for one in (other, recommender))
            assert [one.item_id for one in mine] == [one.item_id for one in theirs]
            assert [one.log_prob for one in mine] == pytest.approx([one.log_prob for one in theirs], abs=1e-4)
    with pytest.raises(RunError, match="vLLM gives no hidden states"):
        other.bundle.policy.log_prob([recommender.user_state(user)[0]], torch.tensor([[0]]))


def test_the_example_of_the_docs_draws_items(vllm, run, monkeypatch):
    (text,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs/vllm.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    names: dict = {}
    exec(text.replace('"runs/shop"', repr(str(run))).replace('"user-1"', repr(user_of(run))), names)
    assert len(names["drawn"]) == 8
    assert all(item is not None and log_pi < 0 for item, log_pi in names["drawn"])
    assert "i3" not in {names["items"][item].item_id for item, _ in names["drawn"]}


def test_an_engine_that_leaves_tokens_out_is_told_so(vllm, run, recommender):
    class Raw(vllm.LLM):
        def __init__(self, **given):
            super().__init__(**{**given, "logits_processors": ()})

    vllm.LLM = Raw
    other = Recommender.load(run, engine=open_vllm)
    with pytest.raises(RunError, match="vLLM said nothing of token"):
        other.recommend(user=recommender.data.users["user_id"][0], k=3)


def test_batch_writes_the_same_lists_through_the_engine(run, recommender, tmp_path):
    users = recommender.data.users["user_id"].to_list()[:6]
    (tmp_path / "users").write_text("\n".join(users), encoding="utf-8")
    out = tmp_path / "slates.parquet"
    given = ["--model", run, "--out", out, "-k", 4, "--users", tmp_path / "users", "--engine", "max_num_seqs=7"]
    environment = {**tiny.environment(tmp_path / "cache"), "PYTHONPATH": f"{STUB}:{os.environ.get('PYTHONPATH', '')}"}
    done = forked.run(tiny.command("batch", *given, "--backend", "vllm"), env=environment)
    assert done.returncode == 0, done.stderr
    assert "24 rows" in done.stdout
    frame = pl.read_parquet(out)
    for user in users:
        alone = recommender.recommend(user=user, k=4).items
        mine = frame.filter(pl.col("user_id") == user)
        assert mine["item_id"].to_list() == [one.item_id for one in alone]
        assert mine["log_prob"].to_list() == pytest.approx([one.log_prob for one in alone], abs=1e-4)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--backend", "vllm"], "--backend vllm needs vLLM, which is not installed here"),
        (["--backend", "vllm", "--fuse", "0.5"], "leave one of the two out"),
        (["--backend", "vllm", "--engine", "dtype"], "--engine 'dtype' is not of the form KEY=VALUE"),
        (["--backend", "vllm", "--engine", "max_logprobs=3"], "is set by llmrec itself"),
        (["--engine", "dtype=float16"], "give --backend vllm with it"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(monkeypatch, run, tmp_path, extra, said):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "vllm" else True)
    result = CliRunner().invoke(app, ["batch", "--model", str(run), "--out", str(tmp_path / "x.parquet"), *extra])
    assert isinstance(result.exception, RequestError | RunError)
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_folders_and_processes_that_vllm_cannot_use_are_refused(vllm, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="tensor_parallel_size"):
        open_vllm(tmp_path)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr("llmrec.vllm_engine.backend.read_facts", lambda folder: {"weights": "adapter"})
    with pytest.raises(RunError, match="--to merged"):
        open_vllm(tmp_path)


def test_arguments_are_read_as_they_are_written():
    assert read_arguments(None) is read_arguments({"other": 1}) is read_arguments({"llmrec": False}) is None
    full = {"llmrec": 1, "llmrec_exclude": ["a"], "llmrec_min_price": 2, "llmrec_written": 3, "mine": object()}
    assert read_arguments(full) == Asked(Filters(price=(2, None), exclude=("a",)), 3)
    wrong = {
        "need 'llmrec': true": {"llmrec_exclude": ["a"]},
        "the key 'llmrec_excluded'": {"llmrec": True, "llmrec_excluded": []},
        "must be a finite number": {"llmrec": True, "llmrec_max_price": float("nan")},
        "must be a whole number": {"llmrec": True, "llmrec_written": -1},
        "is above": {"llmrec": True, "llmrec_min_price": 3, "llmrec_max_price": 2},
    }
    for said, extra in wrong.items():
        with pytest.raises(RequestError, match=said):
            read_arguments(extra)


def test_filters_go_through_arguments_and_back(recommender):
    catalogue = recommender.bundle.policy.catalogue
    filters = Filters(("a",), ("b",), (1.0, 2.0), candidates=("i1", "i2"), exclude=("i3",))
    told = sampling_arguments(catalogue, filters)
    assert read_arguments(told["extra_args"]) == Asked(filters)
    assert told["max_tokens"] == catalogue.index.max_length
    for refused in (Filters(in_stock=True), Filters(max_per_category=1), Filters(without=("x",))):
        with pytest.raises(RequestError, match="give the items that are left as candidates"):
            sampling_arguments(catalogue, refused)
    assert read_engine_arguments(["dtype=float16", "tensor_parallel_size=2"]) == {
        "dtype": "float16",
        "tensor_parallel_size": 2,
    }

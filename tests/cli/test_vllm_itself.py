"""vLLM itself, where it is installed (a build for processors will do): what `test_vllm.py` asks of a stand-in.

Run with vLLM beside llmrec: pytest -m slow tests/cli/test_vllm_itself.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import polars as pl
import pytest
import torch

from llmrec.catalogue.filters import Filters
from llmrec.export import read_items
from llmrec.policy.constrained_rows import TreeWalk
from llmrec.recommender import Recommender
from llmrec.vllm_engine.arguments import sampling_arguments
from llmrec.vllm_engine.backend import PROCESSOR, open_vllm
from tests import forked
from tests.cli import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
ENGINE = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "seed": 3, "gpu_memory_utilization": 0.1}
"""In 32 bits, as torch beside it, with a tenth of the memory."""


@pytest.fixture(scope="module")
def engine(run):
    """One engine, as `open_vllm` starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield open_vllm(run, {**ENGINE, "max_num_seqs": 7})


def user_of(recommender):
    return str(recommender.data.users["user_id"][0])


def test_lists_are_those_of_torch(run, recommender, engine):
    other = Recommender.load(run, engine=lambda folder: engine)
    kind = recommender.bundle.items[0].categories[0]
    asked = [
        {"k": 5},
        {"k": 3, "exact": True, "exclude_seen": True},
        {"k": 4, "filters": Filters(categories=(kind,))},
        {"k": 6, "filters": Filters(max_per_category=2)},
    ]
    for user in recommender.data.users["user_id"].to_list()[:3]:
        for options in asked:
            mine, theirs = (one.recommend(user=user, **options).items for one in (other, recommender))
            assert [one.item_id for one in mine] == [one.item_id for one in theirs]
            assert [one.log_prob for one in mine] == pytest.approx([one.log_prob for one in theirs], abs=1e-3)


def test_what_is_drawn_is_pi_of_what_each_request_allows(run, recommender, engine):
    """Requests of ours and of others, more than the engine has rows for: rows are added, removed and moved."""
    import vllm

    llm = engine.answerer.llm
    catalogue, items = read_items(run)
    rows = [tuple(t for t in row if t >= 0) for row in catalogue.tokens_NL.tolist()]
    users = recommender.data.users["user_id"].to_list()[:6]
    states = [recommender.user_state(user)[0] for user in users]
    policy = recommender.bundle.policy
    ids = [item.item_id for item in items]
    filters = [Filters(), Filters(exclude=tuple(ids[: len(ids) // 2])), Filters(candidates=(ids[3], ids[8], ids[20]))]
    cases = [(state, one) for state in states for one in filters]
    given = [
        ({"prompt_token_ids": policy.renderer.token_ids(state)}, params)
        for state, one in cases
        for params in (
            vllm.SamplingParams(**sampling_arguments(catalogue, one), n=8, logprobs=1),
            vllm.SamplingParams(max_tokens=3, temperature=0.0),
        )
    ]
    answers = llm.generate(*map(list, zip(*given, strict=True)), use_tqdm=False)
    walk, drawn = TreeWalk(catalogue.index), set()
    for (state, one), answer in zip(cases, answers[::2], strict=True):
        may = (
            set(range(len(ids)))
            if one == Filters()
            else {ids.index(i) for i in one.candidates or ids[len(ids) // 2 :]}
        )
        for output in answer.outputs:
            item = walk.item_of(output.token_ids, catalogue.end_token)
            assert item in may
            assert tuple(output.token_ids) == rows[item]
            told = sum(step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True))
            (log_pi,) = policy.log_prob([state], torch.tensor([[item]]), filters=one)[0].tolist()
            assert told == pytest.approx(log_pi, abs=1e-3)
            drawn.add(item)
    assert len(drawn) > 10
    # requests of others are answered as without us
    free = {tuple(answer.outputs[0].token_ids) for answer in answers[1::2]}
    alone = llm.generate([given[1][0]], given[1][1], use_tqdm=False)[0].outputs[0].token_ids
    assert tuple(alone) in free


def test_a_request_that_cannot_be_read_is_refused_alone(engine, recommender):
    import vllm

    llm = engine.answerer.llm
    prompt = {
        "prompt_token_ids": recommender.bundle.policy.renderer.token_ids(
            recommender.user_state(user_of(recommender))[0]
        )
    }
    with pytest.raises(
        Exception, match=r"Key .llmrec_exclude. of extra_args must be a list of texts"
    ):  # vLLM's own type
        llm.generate([prompt], vllm.SamplingParams(extra_args={"llmrec": True, "llmrec_exclude": 3}), use_tqdm=False)
    assert llm.generate([prompt], vllm.SamplingParams(max_tokens=1), use_tqdm=False)


def test_batch_writes_the_same_lists_through_the_engine(run, recommender, tmp_path):
    users = recommender.data.users["user_id"].to_list()[:6]
    (tmp_path / "users").write_text("\n".join(users), encoding="utf-8")
    out = tmp_path / "slates.parquet"
    engine = [f"--engine={key}={str(value).lower()}" for key, value in ENGINE.items()]
    given = ["--model", run, "--out", out, "-k", 4, "--users", tmp_path / "users", *engine, "--backend", "vllm"]
    done = forked.run(
        tiny.command("batch", *given), env={**tiny.environment(tmp_path / "cache"), "PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    frame = pl.read_parquet(out)
    for user in users:
        alone = recommender.recommend(user=user, k=4).items
        mine = frame.filter(pl.col("user_id") == user)
        assert mine["item_id"].to_list() == [one.item_id for one in alone]
        assert mine["log_prob"].to_list() == pytest.approx([one.log_prob for one in alone], abs=1e-3)


def test_a_service_of_vllm_answers_with_items(run, recommender, tmp_path):
    """`vllm serve` as docs/vllm.md has it; by its module, as a build for processors has no command of that name."""
    catalogue, items = read_items(run)
    ids, policy = [item.item_id for item in items], recommender.bundle.policy
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(run), "--host", "127.0.0.1"]
    line += ["--port", str(port), "--logits-processors", PROCESSOR, "--logprobs-mode", "processed_logprobs"]
    line += ["--served-model-name", "shop", "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    line += ["--gpu-memory-utilization", "0.1"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        line, env={**os.environ, "VLLM_USE_V2_MODEL_RUNNER": "0"}, stdout=log, stderr=log, start_new_session=True
    )

    def ask(**body):
        asked = json.dumps({"model": "shop", "return_token_ids": True, "logprobs": 0, **body}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", asked, {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request, timeout=60))["choices"]

    try:
        give_up = time.monotonic() + 400
        while True:
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < give_up
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            time.sleep(1)
        state = recommender.user_state(user_of(recommender))[0]
        walk, only = TreeWalk(catalogue.index), Filters(exclude=tuple(ids[:30]))
        told = sampling_arguments(catalogue, only)
        body = {"prompt": policy.renderer.token_ids(state), "n": 6, "vllm_xargs": told.pop("extra_args"), **told}
        for choice in ask(**body):
            item = walk.item_of(choice["token_ids"], catalogue.end_token)
            assert item >= 30
            (log_pi,) = policy.log_prob([state], torch.tensor([[item]]), filters=only)[0].tolist()
            assert sum(choice["logprobs"]["token_logprobs"]) == pytest.approx(log_pi, abs=1e-3)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(**{**body, "vllm_xargs": {"llmrec": True, "llmrec_exclude": 3}})
        assert ask(prompt="Next product:", max_tokens=2)  # a request of others
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
        log.close()

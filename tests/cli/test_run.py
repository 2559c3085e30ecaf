"""The main job as a process: what it leaves, what it prints, and that a stop costs nothing."""

import json
import re
import signal
import subprocess
import time

import pytest
import yaml

from llmrec.config import ModelConfig
from llmrec.pipeline.recipes import demo_config
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.nano import make_nano, train_tokenizer
from tests.cli import tiny


def test_the_run_folder_holds_what_a_stranger_needs_and_no_user(finished):
    out, done = finished
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    needed = {
        "llmrec.json",
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "items.parquet",
        "config.yaml",
        "metrics.json",
        "README.md",
        "report.md",
        "report.html",
    }
    assert needed <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".pickle")) or "event" in n or "user" in n]
    users = [f"u{n:05d}" for n in range(120)]
    for name in names:
        if name.endswith((".json", ".md", ".html", ".yaml")):
            text = (out / name).read_text(encoding="utf-8")
            assert not [u for u in users if u in text], name
    for word in ("popularity", "covisitation", "SFT", "PPO", "true optimum", "Illegal recommendations: 0.00%"):
        assert word in done.stdout, done.stdout
    assert "http://" not in (out / "report.html").read_text(encoding="utf-8")
    # 40 are asked for, but nobody whom the gate has met, and the shop is small
    (said,) = {
        number
        for shown in (done.stdout, (out / "report.html").read_text("utf-8"), (out / "README.md").read_text("utf-8"))
        for number in re.findall(r"for (\d+) users, coverage@10", " ".join(shown.replace("\\", "").split()))
    }
    assert 20 <= int(said) <= 40


def test_metrics_have_every_figure_and_nothing_illegal(finished):
    out, _ = finished
    found = tiny.metrics(out)
    systems = found["means"]["ranking"]
    assert {"popularity", "covisitation", "SFT"} <= set(systems)
    for row in systems.values():
        assert row["illegal"] == 0
        assert {f"{m}@{k}" for m in ("HR", "NDCG", "MRR") for k in (1, 5, 10)} <= set(row)
    truth = found["means"]["truth"]
    assert truth["true optimum"]["value@1"] == max(row["value@1"] for row in truth.values())
    assert found["verdict"]["outcome"] in ("gain", "none", "loss")
    assert set(found["variety"]) == set(systems)
    assert all(0 < row["coverage"] <= 1 and 1 <= row["distinct"] <= 40 for row in found["variety"].values())
    assert found["variety"]["popularity"]["overlap"] > 0.5
    assert found["rates_note"] == ""  # a generated world logs its impressions


def test_recommend_for_a_user_a_prompt_and_from_python(finished, cache):
    out, _ = finished
    by_user = json.loads(
        tiny.llmrec("recommend", "--model", out, "--user", "u00003", "-k", 5, "--json", cache=cache).stdout
    )
    assert len({i["item_id"] for i in by_user["items"]}) == 5
    scores = [i["log_prob"] for i in by_user["items"]]
    assert scores == sorted(scores, reverse=True)
    title = by_user["items"][2]["title"]
    shown = tiny.llmrec("recommend", "--model", out, "--prompt", f"I liked {title}", "-k", 3, cache=cache).stdout
    assert f"is read as {title}" in " ".join(shown.split())

    from llmrec import Recommender
    from llmrec.catalogue.filters import Filters

    recommender = Recommender.load(out)
    again = recommender.recommend(user="u00003", k=5)
    assert [i.item_id for i in again.items] == [i["item_id"] for i in by_user["items"]]
    recommender.fuse(1.0)
    alone = recommender.recommend(user="u00003", k=5)
    assert [i.item_id for i in alone.items] == [i.item_id for i in again.items]
    recommender.fuse(0.0)
    other = recommender.recommend(user="u00003", k=5)
    assert [i.item_id for i in other.items] != [i.item_id for i in again.items]
    without = Filters(exclude=(other.items[1].item_id,))
    less = recommender.recommend(user="u00003", k=4, filters=without, exact=True)
    assert less.items == other.items[:1] + other.items[2:]  # filters change no score of a mixture


def test_recommend_under_filters(finished, cache, tmp_path):
    import polars as pl

    out, _ = finished
    items = pl.read_parquet(out / "items.parquet")
    chosen = items.filter(pl.col("price") <= 30.0)["item_id"].to_list()[:12]
    (tmp_path / "candidates.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    asked = ("recommend", "--model", out, "--prompt", "something new", "--json")
    limits = ("--candidates", tmp_path / "candidates.txt", "--max-price", 30, "--max-per-category", 1, "-k", 4)
    answer = json.loads(tiny.llmrec(*asked, *limits, "--exclude", chosen[0], cache=cache).stdout)
    got = [i["item_id"] for i in answer["items"]]
    main = {row["item_id"]: row["categories"][0] for row in items.iter_rows(named=True)}
    assert set(got) <= set(chosen[1:])
    assert len({main[i] for i in got}) == len(got)
    if len(got) < 4:
        assert "Only" in answer["note"]
    wrong = tiny.llmrec(*asked, "--category", "no such thing", cache=cache, code=2)
    assert wrong.stderr.strip().splitlines()[-1].startswith("llmrec: The filter category names 'no such thing'")


def test_the_same_command_again_makes_nothing_anew(finished, cache):
    out, _ = finished
    before = tiny.metrics(out)
    done = tiny.llmrec("demo", "--out", out, *tiny.arguments(), cache=cache)
    assert done.stderr.count("done before") >= 4, done.stderr
    assert tiny.metrics(out) == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["nano", "sft", "simulator", "ppo"])
def test_killed_in_a_stage_and_resumed_equals_uninterrupted(finished, tmp_path, stage):
    out, _ = finished
    again = tmp_path / out.name
    cache = tmp_path / "cache"
    line = tiny.command("demo", "--out", again, *tiny.arguments())
    process = subprocess.Popen(
        line, env=tiny.environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    scratch = tmp_path / f"{out.name}.work" / f"{stage}.partial"
    wanted = {"nano": "trainer", "sft": "checkpoint-2", "ppo": "checkpoint-*"}
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline and process.poll() is None:
        if list(scratch.rglob(wanted[stage])) if stage in wanted else scratch.is_dir():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not again.exists()
    tiny.llmrec("demo", "--out", again, *tiny.arguments(), cache=cache)
    assert tiny.metrics(again) == tiny.metrics(out)


@pytest.mark.slow
def test_the_demo_with_a_pretrained_model(tmp_path, cache):
    """`llmrec demo --model FOLDER`: a folder as transformers writes it, LoRA in both stages, headroom in words."""
    folder = tmp_path / "tiny model"
    tokenizer = train_tokenizer(["handmade tent for camping", "Profile: likes yoga. Next product:"] * 3, 300)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0)
    save_causal_lm(model, tokenizer, folder)
    more = {"sft.weights": "lora", "text.max_tokens": 400, "sft.batch_size": 32, "model.nano_vocabulary": 600}
    arguments = tiny.arguments(**more)
    done = tiny.llmrec("demo", "--model", folder, "--out", tmp_path / "run", *arguments, cache=cache)
    assert "informed optimum" in done.stdout
    assert "of what SFT leaves to gain" in " ".join(done.stdout.split())
    for page in ("report.md", "report.html", "README.md"):
        assert "of what SFT leaves to gain" in (tmp_path / "run" / page).read_text("utf-8")
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text("utf-8"))
    assert saved["model"]["name"] == str(folder)
    assert saved["ppo"]["learning_rate"] == demo_config(0, None, str(folder)).improvement.learning_rate
    assert {"before SFT", "SFT"} <= set(tiny.metrics(tmp_path / "run")["means"]["ranking"])

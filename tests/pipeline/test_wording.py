"""The language of prompts, and templates of one's own: tried at the start, kept with the run, used everywhere."""

import shutil

import polars as pl
import pytest

from llmrec import Recommender
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.pipeline.base_model import make_renderer
from llmrec.pipeline.data import RunData
from llmrec.pipeline.run import run_job
from llmrec.pipeline.wording import check_wording, run_language, text_key
from llmrec.policy.nano import train_tokenizer
from llmrec.text.templates import prompts_root
from llmrec.text.wording import written_in
from llmrec.types import Interaction, State
from tests.pipeline.test_check_run import settings_of, shop

CHINESE = [
    "不锈钢水壶",
    "紫砂茶壶",
    "陶瓷马克杯",
    "青花大碗",
    "骨瓷餐盘",
    "银勺",
    "餐叉",
    "菜刀",
    "台灯",
    "椅子",
    "木桌",
    "沙发",
]


@pytest.mark.parametrize(
    ("titles", "language"),
    [
        (CHINESE, "zh"),
        (["红色 T-shirt XL", "iPhone 15 手机壳"], "zh"),
        (["Fargo (1996)", "Amélie", "Heat"], "en"),
        (["Fargo", "活着 (To Live)", "Heat and Dust", "Seven Samurai"], "en"),
        (["となりのトトロ", "千と千尋の神隠し"], None),
        (["기생충", "올드보이"], None),
        (["Солярис", "Сталкер"], None),
        (["1984", "2001", ""], None),
        ([], None),
    ],
)
def test_the_language_of_titles(titles, language):
    assert written_in(titles) == language


def in_chinese(dataset, language="en"):
    items = dataset.items.select("item_id", pl.Series("title", [CHINESE[n % 12] for n in range(dataset.n_items)]))
    about = {"domain": "shop", "click": "click", "conversion": "conversion", "repeat": "allow"}
    events = dataset.events.select("user_id", "item_id", "kind", "time")
    return Dataset.build(items, dataset.users, events, name="shop", language=language, **about)


def data_of(dataset):
    return RunData(dataset, make_split(dataset, "time"))


def test_chinese_titles_are_worded_in_chinese_unless_told_otherwise(tmp_path, capfd):
    english, chinese = shop(12), in_chinese(shop(12))
    plain, forced = settings_of(tmp_path), settings_of(tmp_path, **{"text.language": "en"})
    assert run_language(plain, english) == "en"
    assert run_language(plain, chinese) == "zh"
    assert run_language(plain, in_chinese(shop(12), "zh")) == "zh"
    assert run_language(forced, chinese) == "en"
    check_wording(plain, data_of(english))
    assert capfd.readouterr().err == ""
    check_wording(plain, data_of(chinese))
    assert "Titles are Chinese, so prompts are too" in capfd.readouterr().err
    check_wording(forced, data_of(chinese))
    assert "Prompts are worded in English, but titles look Chinese; set text.language=zh" in capfd.readouterr().err
    check_wording(settings_of(tmp_path, **{"text.language": "zh"}), data_of(english))
    assert "titles look English" in capfd.readouterr().err
    assert text_key(plain, english) == text_key(plain)
    assert text_key(plain, chinese)["language"] == "zh"


@pytest.fixture
def own(tmp_path):
    """A folder with one template, as shipped but for a mark at its beginning."""
    folder = tmp_path / "own"
    folder.mkdir()
    shipped = (prompts_root() / "en" / "shop" / "state.jinja").read_text(encoding="utf-8")
    (folder / "state.jinja").write_text("OWN WORDS\n" + shipped, encoding="utf-8")
    return folder


def prompts(folder, dataset):
    """A state's prompt under the templates of `folder`."""
    tokenizer = train_tokenizer(["OWN WORDS Profile: History: (clicked) Next product: Kettle"] * 3, 300)
    config = settings_of(folder, **{"text.templates": str(folder)})
    return make_renderer(config, data_of(dataset), tokenizer).prompt(State(history=(Interaction(0, "click", 1),)))


def test_a_single_template_takes_the_place_of_the_shipped_one(own):
    check_wording(settings_of(own, **{"text.templates": str(own)}), data_of(shop(12)))
    assert prompts(own, shop(12)).startswith("OWN WORDS\n")
    assert "Kettle 0 (clicked)" in prompts(own, shop(12)), "the entry is the shipped one"


def test_templates_for_a_language_and_domain_win_over_general_ones(own):
    inner = own / "en" / "shop"
    inner.mkdir(parents=True)
    (inner / "entry.jinja").write_text("<{{ title }}>")
    (own / "entry.jinja").write_text("[{{ title }}]")
    (own / "zh" / "shop").mkdir(parents=True)
    (own / "zh" / "shop" / "entry.jinja").write_text("{{ no_such_value }}")
    assert "<Kettle 0>" in prompts(own, shop(12))
    (inner / "entry.jinja").unlink()
    assert "[Kettle 0]" in prompts(own, shop(12))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("state.jinja", "{{ nobody }}", r"state\.jinja cannot be rendered.*nobody"),
        ("state.jinja", "{% for x in history %}", r"state\.jinja is wrong in line 1"),
        ("entry.jinja", "{{ title.missing() }}", r"entry\.jinja cannot be rendered"),
        ("title_from_description.jinja", "{{ 1 / 0 }}", r"title_from_description\.jinja cannot be rendered"),
        ("stat.jinja", "x", r"Nothing uses the template 'stat\.jinja'.*did you mean 'state\.jinja'"),
        ("notes.txt", "x", "holds no template"),
    ],
)
def test_templates_that_cannot_be_used_are_named_at_the_start(tmp_path, name, text, words):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        check_wording(settings_of(tmp_path, **{"text.templates": str(folder)}), data_of(shop(12)))
    with pytest.raises(ConfigError, match="not a folder of templates"):
        check_wording(settings_of(tmp_path, **{"text.templates": "nowhere"}), data_of(shop(12)))


def test_stages_are_keyed_by_what_templates_say_and_not_by_where_they_lie(own, tmp_path):
    key = text_key(settings_of(own, **{"text.templates": str(own)}))
    shutil.copytree(own, tmp_path / "elsewhere")
    assert text_key(settings_of(own, **{"text.templates": str(tmp_path / "elsewhere")})) == key
    (own / "entry.jinja").write_text("{{ title }}!")
    assert text_key(settings_of(own, **{"text.templates": str(own)})) != key
    assert "templates" not in text_key(settings_of(own))


def test_a_run_keeps_its_language_and_templates(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("llmrec.pipeline.finish.write_report", lambda *_, **__: None)
    own = tmp_path / "own" / "zh" / "shop"
    own.mkdir(parents=True)
    (own / "entry.jinja").write_text("《{{ title }}》")
    in_chinese(shop(12)).save(tmp_path / "data")
    run_job(settings_of(tmp_path / "data", **{"text.templates": str(tmp_path / "own")}), tmp_path / "run")
    shutil.rmtree(own)  # the run folder needs it no more
    recommender = Recommender.load(tmp_path / "run")
    assert recommender.bundle.facts["language"] == "zh"
    prompt = recommender.bundle.policy.renderer.prompt(State(history=(Interaction(1, "click", 1),)))
    assert "《紫砂茶壶》" in prompt
    assert "浏览" in prompt or "历史" in prompt or "：" in prompt, "the frame is Chinese"
    assert len(recommender.recommend(prompt="我喜欢紫砂茶壶", k=2).items) == 2

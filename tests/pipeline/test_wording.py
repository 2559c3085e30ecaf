"""The language of prompts, and templates of one's own: tried at the start, kept with the run, used everywhere."""

import shutil

import polars as pl
import pytest

from llmrec import Recommender
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.pipeline.base_model import check_cards_fit, make_renderer
from llmrec.pipeline.data import RunData
from llmrec.pipeline.run import check_config, run_job
from llmrec.pipeline.wording import check_wording, rating_words, run_language, text_key
from llmrec.policy.nano import train_tokenizer
from llmrec.text.templates import prompts_root
from llmrec.text.wording import RatingWords, written_in
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


def rebuilt(dataset, *, items=None, events=None, **about):
    about = {"domain": "shop", "click": "click", "conversion": "conversion", "repeat": "allow", **about}
    items, events = dataset.items if items is None else items, dataset.events if events is None else events
    return Dataset.build(items, dataset.users, events, name="shop", **about)


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


def with_ratings(values, **about):
    """A shop whose events are ratings of these values."""
    plain = shop(12)
    rated = plain.events.select("user_id", "item_id", "time").with_columns(
        kind=pl.lit("rating"), value=pl.Series([values[n % len(values)] for n in range(plain.events.height)])
    )
    return rebuilt(plain, events=rated, click="rating", **{"conversion": "rating>=4", **about})


@pytest.mark.parametrize(
    ("values", "conversion", "liked", "disliked"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], "rating>=4", 4.0, 3.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], "rating>=2", 2.0, 2.0),
        ([1.0, 4.0, 7.0, 10.0], "rating>=8", 8.0, 5.5),
        ([0.0, 1.0], "rating>=1", 1.0, 0.5),
        ([1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 900.0], "rating>=2", 2.0, None),
    ],
)
def test_what_ratings_are_called_goes_by_their_scale(tmp_path, values, conversion, liked, disliked):
    dataset = with_ratings(values, conversion=conversion)
    words = rating_words(settings_of(tmp_path, **{"text.ratings": "words"}), dataset)
    assert words == RatingWords(liked, disliked)
    assert rating_words(settings_of(tmp_path), dataset) is None
    assert rating_words(settings_of(tmp_path, **{"text.ratings": "words", "text.feedback": False}), dataset) is None


def test_words_for_ratings_without_ratings_are_said_to_change_nothing(tmp_path, capfd):
    config = settings_of(tmp_path, **{"text.ratings": "words"})
    assert rating_words(config, shop(12)) is None
    check_wording(config, data_of(shop(12)))
    assert "no ratings, so text.ratings=words changes nothing" in capfd.readouterr().err


def test_cards_and_words_join_the_key_only_where_they_matter(tmp_path):
    dataset = with_ratings([1.0, 5.0], currency="EUR")
    plain = text_key(settings_of(tmp_path), dataset)
    assert not {"card", "ratings", "frame", "templates"} & plain.keys()

    def key(**changes):
        return text_key(settings_of(tmp_path, **{f"text.{name}": value for name, value in changes.items()}), dataset)

    assert key(**{"card.recent": 9, "card.older": "title"}) == plain
    assert key(**{"card.attributes": ["price"]})["card"]["currency"] == "EUR"
    assert "currency" not in key(**{"card.attributes": ["brand"]})["card"]
    assert key(ratings="words")["ratings"] == {"liked": 4.0, "disliked": 3.0}
    assert key(ratings="words", feedback=False) == key(feedback=False)
    assert text_key(settings_of(tmp_path, **{"text.ratings": "words"}), shop(12)) == plain


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("_common/card.jinja", "{{ title }}", r"card\.jinja does not show the brand of an item"),
        ("_common/card.jinja", "{{ colour }}", r"card\.jinja cannot be rendered"),
        ("entry.jinja", "one more", r"entry\.jinja does not show its title"),
        (
            "entry.jinja",
            "{{ title }} {{ {'rating': 'rated', '': ''}[feedback] }}",
            r"entry\.jinja cannot be rendered",
        ),
    ],
)
def test_templates_that_cards_and_words_do_not_fit_are_named_at_the_start(tmp_path, name, source, words):
    (tmp_path / "own" / "_common").mkdir(parents=True)
    (tmp_path / "own" / name).write_text(source)
    changes = {"text.templates": str(tmp_path / "own"), "text.card.attributes": ["brand"], "text.ratings": "words"}
    with pytest.raises(ConfigError, match=words):
        check_wording(settings_of(tmp_path, **changes), data_of(with_ratings([1.0, 5.0])))


def test_a_card_that_no_prompt_holds_is_refused_before_there_is_a_model(tmp_path):
    tokenizer = train_tokenizer(["Next product: Kettle"] * 3, 300)
    (tmp_path / "_common").mkdir()
    (tmp_path / "_common" / "card.jinja").write_text("{{ title }} " + "and so on " * 30 + "{{ brand }}")
    changes = {"text.card.attributes": ["brand"], "text.templates": str(tmp_path), "text.max_tokens": 64}
    with pytest.raises(ConfigError, match=r"text\.max_tokens is 64, but a prompt with one item card takes"):
        check_cards_fit(settings_of(tmp_path, **changes), data_of(shop(12)), tokenizer)
    with pytest.raises(ConfigError, match=r"'text\.card\.description' is 99, but text\.max_tokens"):
        check_config(settings_of(tmp_path, **{"text.card.description": 99, "text.max_tokens": 96}))


def test_a_run_keeps_its_language_and_templates(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("llmrec.pipeline.finish.write_report", lambda *_, **__: None)
    own = tmp_path / "own" / "zh" / "shop"
    own.mkdir(parents=True)
    (own / "entry.jinja").write_text("《{{ title }}》")
    plain = in_chinese(shop(12))
    told = {"brand": pl.lit("老牌"), "price": pl.lit(199.0), "description": pl.lit("大红；好用")}
    rebuilt(plain, items=plain.items.with_columns(**told), currency="CNY").save(tmp_path / "data")
    cards = {"text.card.attributes": ["brand", "price"], "text.card.description": 30}
    run_job(settings_of(tmp_path / "data", **{"text.templates": str(tmp_path / "own")}, **cards), tmp_path / "run")
    shutil.rmtree(own)  # the run folder needs it no more
    recommender = Recommender.load(tmp_path / "run")
    assert recommender.bundle.facts["language"] == "zh"
    prompt = recommender.bundle.policy.renderer.prompt(State(history=(Interaction(1, "click", 1),)))
    assert "《紫砂茶壶【老牌、199元：大红，好用】》" in prompt, "cards are served as they were learnt"
    assert "浏览" in prompt or "历史" in prompt or "：" in prompt, "the frame is Chinese"
    assert len(recommender.recommend(prompt="我喜欢紫砂茶壶", k=2).items) == 2

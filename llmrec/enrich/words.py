"""What people, items and choices are called, by language and domain: for prompts and for sentences made by rule."""

from __future__ import annotations

from dataclasses import dataclass

from llmrec.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Words:
    """Nouns of a domain: one item, several items, a person, and the verb for "has chosen"."""

    item: str
    items: str
    person: str
    chosen: str
    kinds: str


WORDS: dict[tuple[str, str], Words] = {
    ("en", "shop"): Words("product", "products", "customer", "bought", "categories"),
    ("en", "film"): Words("film", "films", "viewer", "watched", "genres"),
    ("en", "music"): Words("song", "songs", "listener", "played", "genres"),
    ("en", "news"): Words("article", "articles", "reader", "read", "topics"),
    ("en", "course"): Words("course", "courses", "student", "taken", "subjects"),
    ("en", "social"): Words("post", "posts", "user", "opened", "topics"),
    ("zh", "shop"): Words("商品", "商品", "顾客", "买过", "类别"),
    ("zh", "film"): Words("电影", "电影", "观众", "看过", "类型"),
    ("zh", "music"): Words("歌曲", "歌曲", "听众", "听过", "风格"),
    ("zh", "news"): Words("新闻", "新闻", "读者", "读过", "主题"),
    ("zh", "course"): Words("课程", "课程", "学员", "学过", "科目"),
    ("zh", "social"): Words("帖子", "帖子", "用户", "看过", "主题"),
}


def words_for(language: str, domain: str) -> Words:
    """The words of a language and domain; raises `ConfigError` for an unknown one."""
    if (language, domain) not in WORDS:
        raise ConfigError(f"There are no words for language {language!r} and domain {domain!r}; choose en or zh.")
    return WORDS[language, domain]

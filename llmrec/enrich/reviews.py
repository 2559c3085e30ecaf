"""Reviews: read from a file beside the data set, as its tables hold no text of events; and what they say, by rule."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.bounded import json_objects
from llmrec.enrich.types import Opinion, Sentiment
from llmrec.errors import DataError
from llmrec.printing import one_line
from llmrec.progress import track

LONGEST = 20_000
"""Characters of a review that are read."""
_LAYOUTS: tuple[dict[str, str], ...] = (
    {"user": "user_id", "item": "item_id", "text": "text", "time": "time"},
    {"user": "reviewerID", "item": "asin", "text": "reviewText", "time": "unixReviewTime"},
    {"user": "user_id", "item": "parent_asin", "text": "text", "time": "timestamp"},
)


@dataclass(frozen=True, slots=True)
class Review:
    """What a user wrote of an item. `time` in seconds, None where it is unknown. The text is untrusted."""

    user_id: str
    item_id: str
    text: str
    time: int | None = None


def read_reviews(path: Path) -> list[Review]:
    """Reviews from JSON lines, plain or gzipped; lines without text are left out.

    The keys are user_id, item_id, text and, where known, time (seconds); the layouts of Amazon's reviews of 2018 and
    2023 are known too.

    Raises:
        DataError: the file or a line cannot be read; named with its number.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; give one with a review a line, as JSON.")
    found: list[Review] = []
    layout: dict[str, str] | None = None
    try:
        for number, row in track(json_objects(path), f"Reading {path.name}"):
            layout = layout or _layout(path, row)
            review = _review(path, number, row, layout)
            if review is not None:
                found.append(review)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {one_line(error, 200)}.") from None
    if not found:
        raise DataError(f"{path} holds no review with a text; give another file, or leave --reviews out.")
    return found


def _layout(path: Path, row: dict[str, Any]) -> dict[str, str]:
    for layout in _LAYOUTS:
        if all(layout[key] in row for key in ("user", "item", "text")):
            return layout
    raise DataError(
        f"{path} holds no reviews: its first line has {one_line(', '.join(map(str, row)), 120)} and lacks user_id, "
        "item_id and text."
    )


def _review(path: Path, number: int, row: dict[str, Any], layout: dict[str, str]) -> Review | None:
    text = row.get(layout["text"]) or ""
    user, item, time = row.get(layout["user"]), row.get(layout["item"]), row.get(layout["time"])
    if not isinstance(text, str) or not all(isinstance(one, str) and one for one in (user, item)):
        shown = one_line(json.dumps([user, item]), 80)
        raise DataError(f"{path}, line {number}: user, item and text must be text, not {shown}; mend that line.")
    if time is not None and (isinstance(time, bool) or not isinstance(time, int)):
        raise DataError(f"{path}, line {number}: {layout['time']!r} must be whole seconds; mend that line.")
    if not text.strip():
        return None
    return Review(
        str(user), str(item), text[:LONGEST], time // 1000 if time and layout["time"] == "timestamp" else time
    )


_POSITIVE = {
    "en": """amazing awesome beautiful best brilliant charming clever comfortable convincing delicious delightful
        easy enjoyable enjoyed excellent exciting fantastic fine flawless fun funny gorgeous gripping happy helpful
        impressed impressive like liked love loved lovely moving nice outstanding perfect perfectly pleasant pleased
        powerful quick recommend recommended reliable satisfied sharp smooth solid sturdy stunning superb sweet
        terrific thrilling touching useful warm well wonderful works worth great good""",
    "zh": """喜欢 满意 好看 好用 好吃 好听 精彩 感人 推荐 漂亮 舒服 舒适 实用 方便 优秀 完美 不错 很好 太好 超值
        结实 清晰 值得 惊喜 出色 动人""",
}
_NEGATIVE = {
    "en": """annoying awful bad boring broke broken cheaply confusing crashed damaged defective difficult
        disappointed disappointing disappointment dull dumb fails failed faulty flawed flimsy hard hate hated horrible
        lame late leaks mediocre mess messy misleading missing noisy painful pathetic poor poorly predictable refund
        regret returned rude scratched sloppy slow smelly stupid terrible thin ugly uncomfortable unreliable useless
        waste wasted weak worse worst wrong""",
    "zh": """失望 难看 难用 难吃 难听 无聊 糟糕 差劲 很差 太差 垃圾 后悔 退货 坏了 破损 劣质 浪费 粗糙 拖沓
        太慢 不值 不好 不喜欢 不满意 不推荐 恶心""",
}
_ASPECTS = {
    "en": {
        "price": "price prices priced cost costs expensive cheap money value",
        "quality": "quality made build material materials durable durability sturdy flimsy",
        "delivery": "delivery delivered shipping shipped arrived package packaging",
        "size": "size sizes fit fits fitted large small tight loose",
        "comfort": "comfort comfortable uncomfortable soft",
        "battery": "battery batteries charge charging charger",
        "sound": "sound sounds audio volume noise noisy",
        "picture": "picture screen display camera photography cinematography visuals",
        "taste": "taste tastes flavor flavour delicious",
        "smell": "smell smells smelly scent",
        "service": "service support seller staff",
        "design": "design looks style color colour",
        "acting": "acting actor actors actress cast performance performances",
        "story": "story plot script writing storyline",
        "music": "music soundtrack score song songs",
        "effects": "effects special animation",
        "humour": "humor humour jokes joke funny comedy",
        "ending": "ending finale end",
        "length": "long length pace pacing slow",
    },
    "zh": {
        "价格": "价格 价钱 贵 便宜 性价比 超值 不值",
        "质量": "质量 做工 材质 结实 劣质 耐用",
        "物流": "物流 快递 发货 送货 包装",
        "尺寸": "尺寸 大小 尺码 合身",
        "舒适": "舒服 舒适",
        "电池": "电池 续航 充电",
        "声音": "声音 音质 音量 噪音",
        "画面": "画面 屏幕 画质 摄影",
        "味道": "味道 口感 好吃 难吃",
        "服务": "服务 客服 售后",
        "设计": "设计 外观 颜色 款式",
        "演技": "演技 演员 表演",
        "剧情": "剧情 故事 情节 剧本",
        "音乐": "音乐 配乐",
        "特效": "特效",
        "结局": "结局 结尾",
        "节奏": "节奏 拖沓",
    },
}
_WEIGH = {
    language: {
        **dict.fromkeys(_POSITIVE[language].split(), 1),
        **dict.fromkeys(_NEGATIVE[language].split(), -1),
    }
    for language in ("en", "zh")
}
_OF = {
    lang: {word: name for name, text in names.items() for word in text.split()} for lang, names in _ASPECTS.items()
}
_ZH_WORD = re.compile("|".join(sorted({*_WEIGH["zh"], *_OF["zh"]}, key=lambda word: (-len(word), word))))
_CLAUSE = re.compile(r"[.,;:!?()\n。，；：！？、]+|\b(?:but|although|though|however|and)\b|但是|但|不过|可是|然而")
_NOT_WORDS = """no not never without hardly nothing isn't wasn't aren't don't doesn't didn't can't couldn't won't
wouldn't"""
_NOT = frozenset(_NOT_WORDS.split())
_NOT_ZH = re.compile("(?:不|没|没有|并非)$")
_REACH = 3


def opinion_of(text: str, language: str) -> Opinion:
    """Sentiment and aspects of a review by a lexicon: words with a sign, turned round by a "not" shortly before them.

    A clause's sum of signs is the polarity of the aspects that it names; the review's is that of all clauses, "mixed"
    where a quarter or more of the signs speak against the rest.
    """
    signs: list[int] = []
    aspects: dict[str, int] = {}
    for clause in _CLAUSE.split(text.replace("’", "'")):
        found, named = _read(clause, language)
        signs += found
        for name in named:
            aspects[name] = aspects.get(name, 0) + sum(found)
    good, bad = signs.count(1), signs.count(-1)
    sides = tuple((name, "positive" if sign > 0 else "negative") for name, sign in aspects.items() if sign)
    return Opinion(_sentiment(good, bad), sides)


def _sentiment(good: int, bad: int) -> Sentiment:
    if not good and not bad:
        return "neutral"
    if min(good, bad) * 4 >= good + bad:
        return "mixed"
    return "positive" if good > bad else "negative"


def _read(clause: str, language: str) -> tuple[list[int], list[str]]:
    """The signs in a clause and the aspects that it names."""
    weights, names = _WEIGH[language], _OF[language]
    signs, named = [], []
    if language == "zh":
        for match in _ZH_WORD.finditer(clause):
            if sign := weights.get(match[0]):
                signs.append(-sign if _NOT_ZH.search(clause[: match.start()]) else sign)
            if name := names.get(match[0]):
                named.append(name)
        return signs, named
    words = re.findall(r"[a-z']+", clause.lower())
    for place, word in enumerate(words):
        if sign := weights.get(word):
            turned = any(before in _NOT for before in words[max(0, place - _REACH) : place])
            signs.append(-sign if turned else sign)
        if name := names.get(word):
            named.append(name)
    return signs, named


def aspects_of(language: str) -> Sequence[str]:
    """The names of all aspects that are known by rule."""
    return list(_ASPECTS[language])

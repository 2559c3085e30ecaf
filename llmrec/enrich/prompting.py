"""Prompts for writers that are language models: templates, what fits into a context, answers to drafts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace

import jinja2

from llmrec.bounded import parse_json
from llmrec.enrich.grounding import sentences_of
from llmrec.enrich.types import SENTIMENTS, Draft, Field, Opinion, Source
from llmrec.enrich.words import words_for
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.printing import one_line
from llmrec.text.budget import longest_that_fits
from llmrec.text.sandbox import BoundedSandbox
from llmrec.text.templates import prompts_root

FACTS = (
    *("title", "profile", "category", "liked", "disliked", "chosen", "praised", "blamed", "brand"),
    *("price", "description", "reviews", "review"),
)
"""Names of facts; a template finds the texts of each as a list (of `profile` the text)."""
LEADS: dict[str, dict[Field, str]] = {
    "en": {
        "long_term": "Over time this {person} has mostly enjoyed",
        "recent": "Lately this {person} has been interested in",
        "description": "This {item} is",
        "opinion": '{{"sentiment": "',
    },
    "zh": {
        "long_term": "这位{person}长期以来喜欢",
        "recent": "这位{person}最近喜欢",
        "description": "这件{item}是",
        "opinion": '{{"sentiment": "',
    },
}
"""How an answer begins, where a model can be made to begin so: small ones then tell instead of copying the notes."""
_FOLDER = "_enrich"
_LONGEST_ANSWER = 4000


class Prompts:
    """The templates of one language, in the words of a domain.

    Args:
        language: "en" or "zh".
        domain: of the data set.

    Raises:
        ConfigError: there are none for that language, or one of them is broken.
    """

    def __init__(self, language: str, domain: str) -> None:
        self.language, self.domain = language, domain
        self._words = words_for(language, domain)
        folder = prompts_root() / language / _FOLDER
        self.sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
        self._environment = BoundedSandbox(
            loader=jinja2.DictLoader(self.sources),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        if not self.sources:
            raise ConfigError(f"There are no prompts for enrichment in language {language!r}; choose en or zh.")

    @property
    def hash(self) -> str:
        """Hex SHA-256 of templates and words."""
        return sha256_of(json.dumps([self.sources, asdict(self._words), LEADS[self.language]], sort_keys=True))

    def render(self, source: Source) -> str:
        """The prompt of a source with all of its facts."""
        # Counts and values order the facts and are not told: small models make claims of every number they see.
        values: dict[str, object] = {name: source.texts(name) for name in FACTS}
        values["profile"] = " ".join(source.texts("profile"))
        try:
            with self._environment.budget():
                return self._environment.get_template(source.field).render(words=self._words, **values).strip()
        except (jinja2.TemplateError, TypeError, LookupError, ValueError) as error:
            raise ConfigError(f"The template {source.field} cannot be rendered: {one_line(error, 200)}.") from None

    def lead(self, source: Source) -> str:
        """The beginning of the answer."""
        return LEADS[self.language][source.field].format(person=self._words.person, item=self._words.item)

    def fitting(self, source: Source, fits: Callable[[str], bool]) -> str | None:
        """The prompt with as many facts, in their order, as fit; of a review the beginning of its text.

        None where not even the first fact fits.
        """
        whole = self.render(source)
        if fits(whole):
            return whole
        if source.kind == "review":
            return self._shortened(source, fits)
        low, high = 0, len(source.facts)  # `high` facts do not fit
        best: str | None = None
        while high - low > 1:
            middle = (low + high) // 2
            prompt = self.render(replace(source, facts=source.facts[:middle]))
            if fits(prompt):
                low, best = middle, prompt
            else:
                high = middle
        return best

    def _shortened(self, source: Source, fits: Callable[[str], bool]) -> str | None:
        def of(text: str) -> str:
            facts = tuple(replace(fact, text=text) if fact.name == "review" else fact for fact in source.facts)
            return self.render(replace(source, facts=facts))

        text = longest_that_fits(" ".join(source.texts("review")), lambda part: fits(of(part)))
        return of(text) if text else None


def draft_of(answer: str, source: Source, language: str, *, cut: bool) -> Draft:
    """What a language model answered, as a draft; an opinion that is no whole JSON object is a failure."""
    answer = answer[:_LONGEST_ANSWER].strip()
    if source.kind == "review":
        return _opinion_draft(answer)
    sentences = sentences_of(answer, language, source.texts("liked", "disliked", "chosen", "title"))
    return Draft(tuple(sentences), cut) if sentences else Draft(failure="the answer is empty")


def _opinion_draft(answer: str) -> Draft:
    found = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        tree = parse_json(found[0]) if found else None
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        return Draft(failure="the answer is no whole JSON object")
    sentiment, aspects = tree.get("sentiment"), tree.get("aspects", {})
    known = next((one for one in SENTIMENTS if one == sentiment), None)
    if known is None or not isinstance(aspects, dict):
        return Draft(failure="the answer's JSON has another form than what was asked for")
    sides = [(one_line(a, 40).lower(), s) for a, s in aspects.items() if s in ("positive", "negative") and a.strip()]
    return Draft(opinion=Opinion(known, tuple(sides[:8])))

"""Effects in words: a sentence that names parts with large effects, in quotation marks that no name can close.

Words are templates (`prompts/LANGUAGE/_reasons/`), names come from the data and are untrusted: each is on one line,
without markers or what acts on a terminal, cut, and without quotation marks of its own. What has a harmful or
forbidden word in its name is not named, and a sentence that holds one all the same is not said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2

from llmrec.errors import ConfigError
from llmrec.explain.counterfactual import Counterfactual
from llmrec.explain.effects import MATTERS, Attribution, Effect
from llmrec.explain.parts import Part
from llmrec.text.escape import clean_text
from llmrec.text.forbidden import HARMFUL, WordFilter
from llmrec.text.sandbox import BoundedSandbox
from llmrec.text.templates import prompts_root

TOP = 4
"""Of the largest effects, those that a sentence may name."""
NAME_CHARACTERS = 64
OPEN, CLOSE = "“", "”"
_QUOTES = str.maketrans(dict.fromkeys('“”„‟«»「」『』《》〈〉"＂', "'"))
_REASON, _WITHOUT = "reason.jinja", "without.jinja"


@dataclass(frozen=True)
class Unsaid:
    """What no sentence may say.

    Attributes:
        words: listed words; by default the harmful ones.
        items: ids of items that are not named.
        allowed: ids of items that are named whatever words they hold, as a person has looked at them.
    """

    words: WordFilter = field(default_factory=lambda: WordFilter(HARMFUL))
    items: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()

    def covers(self, part: Part) -> bool:
        """Whether a part may not be named."""
        if part.item_id is not None and part.item_id in self.allowed:
            return False
        return part.item_id in self.items or bool(self.words.find(part.name))


class Sentences:
    """Words for one domain and language.

    Args:
        domain: of the items.
        language: "en" or "zh".
        unsaid: what is not named.

    Raises:
        ConfigError: a language or a domain that there are no words for.
    """

    def __init__(self, domain: str, language: str, unsaid: Unsaid | None = None) -> None:
        self.domain, self._templates = domain, _templates(language)
        self.unsaid = Unsaid() if unsaid is None else unsaid

    def reason(self, found: Attribution) -> str:
        """Why: what speaks for the item and what against, of the largest effects; else that no part decides."""
        told = [
            effect
            for effect in found.effects[:TOP]
            if abs(effect.nats) >= MATTERS and not self.unsaid.covers(effect.part)
        ]
        causes = [effect for effect in told if effect.nats > 0]
        against = [effect for effect in told if effect.nats < 0]
        joint = found.joint
        # the words are of two that speak for the item, and both have been named
        if joint is not None and not {part.name for part in joint.parts} <= {cause.part.name for cause in causes}:
            joint = None
        wholes = {whole.of: whole for whole in found.wholes}
        everything = wholes.get("everything")
        spoken = [effect.part for effect in told] + ([] if joint is None else list(joint.parts))
        return self._render(
            _REASON,
            spoken,
            causes=[self._effect(effect) for effect in causes[: TOP - 1]],
            against=[self._effect(effect) for effect in against[:1]],
            joint=None
            if joint is None
            else {
                "names": [_name(part) for part in joint.parts],
                "alike": joint.interaction > 0,
                "odds": _ratio(joint.odds),
            },
            known=everything is not None,
            whole=None if everything is None or abs(everything.nats) < MATTERS else _ratio(everything.odds),
        )

    def without(self, found: Counterfactual) -> str:
        """What would have to be unknown; nothing where one of the names may not be said."""
        if any(map(self.unsaid.covers, found.parts)):
            return ""
        names = [_name(part) for part in found.parts]
        return self._render(_WITHOUT, found.parts, names=names, k=found.k, greedy=found.found == "greedy")

    def _effect(self, effect: Effect) -> dict[str, Any]:
        part = effect.part
        return {
            "kind": part.kind,
            "name": part.name if part.kind == "card" else _name(part),
            "feedback": part.feedback or "",
            "value": "" if part.value is None else f"{part.value:g}",
            "odds": _ratio(effect.odds),
            "against": effect.nats < 0,
        }

    def _render(self, name: str, spoken: Sequence[Part], **values: Any) -> str:
        """A template's words, or none where they hold a listed word beside the names that a person let stand."""
        try:
            with self._templates.budget():
                text = self._templates.get_template(name).render(domain=self.domain, **values)
        except jinja2.TemplateError as error:
            raise ConfigError(f"The words of reasons for {self.domain!r} cannot be used: {error}.") from None
        said = " ".join(text.split())
        rest = said
        for part in spoken:
            if part.item_id in self.unsaid.allowed:
                rest = rest.replace(_name(part), "")
        return "" if self.unsaid.words.find(rest) else said


def _name(part: Part) -> str:
    """A part's name in quotation marks."""
    text = clean_text(part.name, NAME_CHARACTERS).translate(_QUOTES).strip(" .;。；")
    if not text and part.item_id is not None:
        text = clean_text(part.item_id, NAME_CHARACTERS).translate(_QUOTES)
    return f"{OPEN}{text}{CLOSE}"


def _ratio(odds: float) -> str:
    """A multiple as it is read: two digits, and bounds instead of numbers that nobody believes."""
    if odds >= 1000.0:
        return "1000+"
    if odds < 0.01:
        return "0.01"
    return f"{odds:.0f}" if odds >= 10 else f"{odds:.1f}" if odds >= 0.95 else f"{odds:.2g}"


@lru_cache(maxsize=8)
def _templates(language: str) -> BoundedSandbox:
    folder = prompts_root() / language / "_reasons"
    if not folder.is_dir():
        raise ConfigError(f"There are no words of reasons in the language {language!r}; use en or zh.")
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    return BoundedSandbox(
        loader=jinja2.DictLoader(sources),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )

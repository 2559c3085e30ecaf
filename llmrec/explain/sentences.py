"""Effects in words: a sentence that names parts with large effects, in quotation marks that no name can close.

Words are templates (`prompts/LANGUAGE/_reasons/`), names come from the data and are untrusted: each is on one line,
without markers or what acts on a terminal, cut, and without quotation marks of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jinja2

from llmrec.errors import ConfigError
from llmrec.explain.counterfactual import Counterfactual
from llmrec.explain.effects import MATTERS, Attribution, Effect
from llmrec.explain.parts import Part
from llmrec.text.escape import clean_text
from llmrec.text.sandbox import BoundedSandbox
from llmrec.text.templates import prompts_root

TOP = 4
"""Of the largest effects, those that a sentence may name."""
NAME_CHARACTERS = 64
OPEN, CLOSE = "“", "”"
_QUOTES = str.maketrans(dict.fromkeys('“”„‟«»「」『』《》〈〉"＂', "'"))
_REASON, _WITHOUT = "reason.jinja", "without.jinja"


class Sentences:
    """Words for one domain and language.

    Raises:
        ConfigError: a language or a domain that there are no words for.
    """

    def __init__(self, domain: str, language: str) -> None:
        self.domain, self._templates = domain, _templates(language)

    def reason(self, found: Attribution) -> str:
        """Why: what speaks for the item and what against, of the largest effects; else that no part decides."""
        told = [effect for effect in found.effects[:TOP] if abs(effect.nats) >= MATTERS]
        causes = [effect for effect in told if effect.nats > 0]
        against = [effect for effect in told if effect.nats < 0]
        joint = found.joint
        # the words are of two that speak for the item, and both have been named
        if joint is not None and not {part.name for part in joint.parts} <= {cause.part.name for cause in causes}:
            joint = None
        wholes = {whole.of: whole for whole in found.wholes}
        everything = wholes.get("everything")
        return self._render(
            _REASON,
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
        """What would have to be unknown."""
        names = [_name(part) for part in found.parts]
        return self._render(_WITHOUT, names=names, k=found.k, greedy=found.found == "greedy")

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

    def _render(self, name: str, **values: Any) -> str:
        try:
            with self._templates.budget():
                text = self._templates.get_template(name).render(domain=self.domain, **values)
        except jinja2.TemplateError as error:
            raise ConfigError(f"The words of reasons for {self.domain!r} cannot be used: {error}.") from None
        return " ".join(text.split())


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

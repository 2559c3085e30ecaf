"""What goes over the wire, as the OpenAPI document shows it. Unknown keys and other kinds of values are refused."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmrec.catalogue.filters import Filters
from llmrec.online.events import LONGEST_ID
from llmrec.text.objectives import LEVELS
from llmrec.types import EventKind, Item

LONGEST_TEXT = 8_000
LONGEST_HISTORY = 1_000
_TIME = 1 << 53
"""Seconds at most, either way: whole numbers that every JSON reader keeps."""

Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[int, Field(ge=-_TIME, le=_TIME)]
Kind = Literal["impression", "click", "conversion", "rating", "cart"]
Outcome = Literal["click", "cart", "conversion", "rating"]


def _config(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": list(examples)} if examples else None
    )


class FilterBody(BaseModel):
    """What the items must be; all of it holds together. It takes items away and changes no score."""

    model_config = _config({"categories": ["kitchen"], "max_price": 20.0})
    categories: list[Text] = Field(default=[], max_length=100, description="Items in any of these categories.")
    brands: list[Text] = Field(default=[], max_length=100, description="Items of any of these brands.")
    min_price: Finite | None = None
    max_price: Finite | None = None
    in_stock: bool = Field(default=False, description="Only items in stock; see /v1/items.")
    candidates: list[Id] | None = Field(default=None, max_length=10_000, description="Choose from these item ids.")
    exclude: list[Id] = Field(default=[], max_length=10_000, description="Leave out these item ids.")
    max_per_category: int | None = Field(default=None, ge=1, description="Items of one category, at most.")

    def filters(self) -> Filters:
        """The same as `Filters`."""
        return Filters(
            tuple(self.categories),
            tuple(self.brands),
            (self.min_price, self.max_price),
            self.in_stock,
            None if self.candidates is None else tuple(self.candidates),
            tuple(self.exclude),
            self.max_per_category,
        )


class InteractionBody(BaseModel):
    """Something that happened with an item."""

    model_config = _config({"item_id": "item-7", "kind": "click", "time": 1_700_000_000})
    item_id: Id
    kind: Kind = "click"
    time: Seconds = Field(default=0, description="Seconds since 1970.")
    value: Finite | None = Field(default=None, description="A rating or an amount.")

    def choice(self) -> tuple[str, EventKind, int, float | None]:
        """Item id, feedback, time and value."""
        return self.item_id, self.kind, self.time, self.value


class StateBody(BaseModel):
    """What is known of somebody, oldest first. Items that the catalogue does not have are left out."""

    model_config = _config({"profile": "Likes tea.", "history": [{"item_id": "item-7", "kind": "conversion"}]})
    profile: Text = ""
    history: list[InteractionBody] = Field(default=[], max_length=LONGEST_HISTORY)
    session: list[InteractionBody] = Field(default=[], max_length=LONGEST_HISTORY)
    context: Text = ""
    time: Seconds | None = None


class ExploreBody(BaseModel):
    """Draws the slate from the policy, place by place without replacement, with exact propensities."""

    model_config = _config({"seed": 1, "temperature": 1.0})
    seed: int | None = Field(
        default=None, ge=0, lt=1 << 63, description="Equal seeds draw with equal luck; a new draw by default."
    )
    temperature: float = Field(default=1.0, ge=0.01, le=100.0, allow_inf_nan=False)


class RecommendBody(BaseModel):
    """Whom to recommend for (exactly one of user_id, prompt and state), and how."""

    model_config = _config(
        {"user_id": "user-1", "k": 5},
        {"prompt": "I liked the red kettle", "k": 3, "filters": {"max_price": 20.0}, "explain": 1},
        {"state": {"history": [{"item_id": "item-7", "kind": "click"}]}, "exact": True},
        {"user_id": "user-1", "explore": {"seed": 1}},
    )
    user_id: Id | None = Field(default=None, description="A user; one who is not known yet is a cold start.")
    prompt: str | None = Field(default=None, min_length=1, max_length=LONGEST_TEXT, description="Free text.")
    state: StateBody | None = None
    k: int = Field(default=10, ge=1, le=10_000, description="Items wanted.")
    filters: FilterBody | None = None
    exclude_seen: bool | None = Field(
        default=None, description="Leave out what the user has seen; by default as the data set says."
    )
    exact: bool = Field(default=False, description="Search until the list is proven.")
    read_filters: bool = Field(
        default=False, description="Categories, brands and prices that the prompt asks for become filters."
    )
    by_words: bool = Field(
        default=True, description="Items with words of the prompt in title, brand or categories come first."
    )
    prefer: dict[Annotated[str, Field(max_length=LONGEST_ID)], Annotated[int, Field(ge=0, lt=LEVELS)]] | None = Field(
        default=None,
        max_length=100,
        description="What to weigh, 0 to 3, by names of the reward's terms that the run reads.",
    )
    explain: int = Field(default=0, ge=0, le=10_000, description="How many of the first items say why.")
    explore: ExploreBody | None = None
    deadline_ms: int | None = Field(
        default=None, ge=1, le=600_000, description="After so long the fallback answers; never longer than set."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(x is not None for x in (self.user_id, self.prompt, self.state)) != 1:
            raise ValueError("give exactly one of user_id, prompt and state")
        if self.explore is not None and self.exact:
            raise ValueError("a slate that explores is drawn and not exact; leave out one of them")
        return self


class ChoiceBody(BaseModel):
    """One place of a slate."""

    place: int
    item_id: str
    title: str
    log_probability: float | None = Field(description="log pi(item | state); null in a fallback slate.")
    probability: float | None
    propensity: float = Field(description="P(item at this place | the state, the items above); 1 without exploring.")
    reason: str | None = Field(default=None, description="Why, in a sentence, where that was asked for.")
    without: str | None = Field(default=None, description="What would undo it.")


class CertificateBody(BaseModel):
    """What is known for certain of the list."""

    proven: bool = Field(description="Whether it is shown to be the exact one.")
    exact_places: int = Field(description="So many of the first places are exact in any case.")
    bound: float | None = Field(
        description="log pi that an item outside of the list can have at most; null where there is none."
    )


class RulesBody(BaseModel):
    """The rules that the list obeys, whoever made it."""

    count: int
    hash: str = Field(description="Of their text; it changes where one of them does.")
    complete: bool = Field(
        description="Whether all places and floors could be had; else the note says what is missing."
    )


class TokensBody(BaseModel):
    """Tokens of the prompt, and how many of them were read before and kept."""

    prompt: int
    cached: int
    read: int


class RecommendAnswer(BaseModel):
    """A slate; name `slate_id` in feedback on it."""

    slate_id: str | None = Field(description="Null where the slate is empty.")
    source: Literal["model", "fallback"]
    fallback_reason: Literal["deadline", "fault"] | None = None
    version: int = Field(description="Of the policy; 0 is the run's own.")
    catalogue: int = Field(description="Of the items; 0 is the run's own.")
    items: list[ChoiceBody]
    certificate: CertificateBody | None
    tokens: TokensBody | None
    rules: RulesBody | None = Field(default=None, description="Null where the service has none.")
    note: str = ""
    related: bool = Field(
        default=True, description="Whether any word of the prompt has to do with an item; if not, the note says so."
    )
    matches: list[str] = Field(default=[], description="Titles that the prompt named.")
    wishes: list[str] = Field(default=[], description="Words of the prompt that became filters.")
    words: list[str] = Field(default=[], description="Words of the prompt whose items come first.")


class FeedbackBody(BaseModel):
    """What somebody did with an item of a slate."""

    model_config = _config({"slate_id": "5f0c…", "item_id": "item-7", "kind": "click"})
    slate_id: Id
    item_id: Id
    kind: Outcome
    value: Finite | None = Field(default=None, description="A rating or an amount.")
    feedback_id: str = Field(
        default="",
        max_length=LONGEST_ID,
        description="By which a repeated report is known; by default kind and item.",
    )


class FeedbackAnswer(BaseModel):
    """The report is on the disk."""

    seq: int
    repeated: bool = Field(description="It stood in the log before, and counts once.")
    late: bool = Field(description="It came after the slate's window and does not count.")


class ItemBody(BaseModel):
    """A new item."""

    model_config = _config({"item_id": "n1", "title": "kettle tiny", "categories": ["kettle"], "price": 9.5})
    item_id: Id
    title: str = Field(min_length=1, max_length=LONGEST_TEXT)
    description: Text = ""
    categories: list[Text] = Field(default=[], max_length=100)
    brand: Text = ""
    price: Finite | None = None

    def item(self) -> Item:
        """The same as `Item`."""
        return Item(self.item_id, self.title, self.description, tuple(self.categories), self.brand, self.price)


class PriceBody(BaseModel):
    """A new price; null for none."""

    model_config = _config({"item_id": "i7", "price": 9.5})
    item_id: Id
    price: Finite | None


class ItemsBody(BaseModel):
    """A change of the catalogue, all of it or nothing: `remove` first, then `add`, then stock and prices."""

    model_config = _config(
        {"add": [{"item_id": "n1", "title": "kettle tiny", "categories": ["kettle"]}], "remove": ["i3"]},
        {"in_stock": ["i1", "i2"], "prices": [{"item_id": "i7", "price": 9.5}]},
    )
    add: list[ItemBody] = Field(default=[], max_length=10_000)
    remove: list[Id] = Field(default=[], max_length=10_000)
    in_stock: list[Id] | None = Field(
        default=None, max_length=1_000_000, description="All items that are in stock from now on."
    )
    prices: list[PriceBody] = Field(default=[], max_length=10_000)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.add or self.remove or self.prices or self.in_stock is not None):
            raise ValueError("give at least one of add, remove, in_stock and prices")
        return self


class ItemsAnswer(BaseModel):
    """The catalogue that is served from now on."""

    catalogue: int = Field(description="Its version; answers name it.")
    items: int


class CompletionBody(BaseModel):
    """A completion as OpenAI's clients ask for it; what has no meaning for a list of items is not taken."""

    model_config = _config({"model": "llmrec", "prompt": "I liked the red kettle", "n": 3})
    model: str = Field(default="llmrec", max_length=LONGEST_ID)
    prompt: str | list[str] = Field(description="Free text, one or several.")
    n: int = Field(default=1, ge=1, le=100, description="Items for each prompt, the best first.")
    user: Id | None = Field(default=None, description="Taken and not used: the prompt says all.")
    max_tokens: int | None = Field(default=None, ge=1, description="Taken and not used: an item is never cut.")
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="Not used.")
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False, description="Not used.")
    stream: Literal[False] = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        prompts = self.prompts
        if not 1 <= len(prompts) <= 16 or not all(1 <= len(prompt) <= LONGEST_TEXT for prompt in prompts):
            raise ValueError(f"give 1 to 16 prompts of 1 to {LONGEST_TEXT} characters")
        try:
            "".join(prompts).encode()
        except UnicodeEncodeError:
            raise ValueError("a prompt holds half a character; send it in UTF-8") from None
        return self

    @property
    def prompts(self) -> list[str]:
        """All prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class CompletionChoice(BaseModel):
    """An item of the catalogue; nothing else can be answered."""

    index: int
    text: str = Field(description="The item's title.")
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None
    item_id: str
    slate_id: str | None = Field(description="For feedback.")
    log_probability: float | None


class CompletionUsage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class CompletionAnswer(BaseModel):
    """As OpenAI's clients read it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class HealthAnswer(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyAnswer(BaseModel):
    """Whether requests are taken."""

    ready: bool
    version: int
    catalogue: int
    items: int


class ErrorDetail(BaseModel):
    """One sentence, and a code that stays the same over versions."""

    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail


def number(value: float) -> float | None:
    """A float for JSON, which has no infinity."""
    return value if math.isfinite(value) else None

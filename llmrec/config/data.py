"""Settings of data: which data set, generated worlds, the wording of states, and how items are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class WithheldSettings:
    """New items: items whose events train nothing and stand in no state, while their texts stay in the catalogue.

    Who chose them is kept apart and asked for (docs/cold-start.md).
    """

    test: float = 0.0
    """Share of all items, drawn by the run's seed, that are asked for in the test period; 0 withholds nothing."""
    valid: float | None = None
    """Share of all items that are asked for in the validation period, where settings for new items are chosen: other
    items than those of the test. null: half of `test`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set and how it is split.

    `dataset`: world (generated), an importer's name (movielens, amazon, amazon-minionerec, complete-journey,
    hillstrom, coat, jester, open-bandit, table, or one of data/layouts) with `source` as its folder or file, or
    folder (`source` is a data set saved by llmrec).
    """

    dataset: str = "world"
    source: str | None = None
    split: Literal["time", "leave-last-out", "given"] = "time"
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    history_events: int = 20
    """Events of the past kept in a state (the prompt's token budget may drop more)."""
    link_window: int = 86_400
    """Seconds within which a click belongs to the latest impression, and a conversion to the latest click, of the
    same user and item; what shares time or session belongs together in any case. 0 joins nothing else."""
    withheld: WithheldSettings = field(default_factory=WithheldSettings)


@dataclass(frozen=True, kw_only=True)
class ScenarioSettings:
    """What makes a generated world hard for naive learners (docs/world.md); "none" changes nothing at all."""

    kind: Literal[
        "none", "cold-start", "popularity-loop", "clickbait", "seasonality", "shift", "adversarial-text"
    ] = "none"
    share: float = 0.2
    """Share of the items (cold-start: of the users too) that the scenario is about."""
    strength: float = 1.0
    """Scale of the effect; 1 is the documented one, 0 leaves only what is shown when."""
    day: float = 45.0
    """Day of the log (of 90) on which new items and users arrive, or demand shifts."""
    period: float = 60.0
    """Days of one turn of the seasons."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The generated world (only for dataset: world)."""

    domain: Literal["shop", "film", "music", "news", "course", "social"] = "shop"
    language: Literal["en", "zh"] = "en"
    users: int = 3000
    items: int = 300
    slates_per_user: int = 8
    slate_size: int = 10
    position_bias: float = 0.0
    """P(the item at 0-based position k is looked at) = (k + 1) ** -position_bias; 0 means that all are."""
    scenario: ScenarioSettings = field(default_factory=ScenarioSettings)


@dataclass(frozen=True, kw_only=True)
class CardSettings:
    """What entries of history and session tell of an item beside its title (docs/policy.md); nothing by default."""

    attributes: tuple[Literal["categories", "brand", "price"], ...] = ()
    """What is told of it, whatever the order here."""
    description: int = 0
    """Tokens of its description at most, cut at a word; 0 shows none."""
    recent: int | None = 3
    """So many of the newest entries have the long card, with the description; null: all of them, so that no card
    changes when its entry grows old."""
    older: Literal["title", "attributes"] = "attributes"
    """What the other entries tell: the title alone, or with the attributes."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a state is worded. `max_tokens` bounds the whole prompt."""

    max_tokens: int = 96
    language: str | None = None
    """en or zh; null: the data set's, or Chinese where its titles are."""
    templates: str | None = None
    """A folder of own templates in place of shipped ones of equal name (docs/policy.md)."""
    frame: Literal["ask", "list"] = "ask"
    """How a state is put. ask: a question behind the history, in the chat template of a model that has one. list: the
    user's items line by line as plain text, which the answer goes on with: in training on timelines each item of a
    history is then an answer and the next one's prompt at once."""
    profile: bool = True
    feedback: bool = True
    elapsed: bool = False
    """Whether the latest entry of the history says how long ago it was (today, days, weeks or long ago)."""
    history: Literal["title", "id", "both"] = "title"
    """How items of the history are named: by title, or (identifier schemes with new tokens) by identifier or both."""
    card: CardSettings = field(default_factory=CardSettings)
    ratings: Literal["number", "words"] = "number"
    """How a rating is told: by its number, or as liked, so-so or disliked by the data set's scale."""


@dataclass(frozen=True, kw_only=True)
class IdentifierSettings:
    """How an item is written as tokens.

    `scheme`: title (its words), semantic (codes of a residual quantisation of its embedding: Rajput et al. 2023,
    "Recommender Systems with Generative Retrieval"), or atomic (one new token an item).
    """

    scheme: Literal["title", "semantic", "atomic"] = "title"
    levels: int = 3
    """Codes of a semantic identifier; items that still collide get one more."""
    codes: int = 256
    """Entries of each level's codebook."""
    embedding: Literal["text", "model", "sentence-transformers", "column"] = "text"
    """What is quantised: text (TF-IDF and SVD), model (mean hidden state of the base model), a
    sentence-transformers model, or a column of vectors that the user supplies."""
    source: str | None = None
    """Name of the sentence-transformers model, or the Parquet file with columns item_id and embedding."""
    dimensions: int = 128
    """Dimensions after the SVD of each embedding."""
    start: Literal["words", "vectors"] = "words"
    """Where the new tokens' embeddings start: at the words of the titles that they stand for, or at the vectors that
    identifiers are made from (projected to the model's width), so that like items begin alike."""
    collaborative: float = 0.5
    """Share of the embedding's variance given to co-visitation in the training period; 0 leaves it out."""

"""A recommender to fit on data frames, in the manner of scikit-learn: the main job behind `fit`.

    from llmrec import LanguageModelRecommender
    model = LanguageModelRecommender().fit(events, items)
    model.recommend(user="42", k=5)

`fit` is `llmrec run` on own tables and nothing else: the same importer, stages, checks and gate, in a run folder.
What is fitted is a `Recommender`, which is at `recommender_` with all that it can do.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import polars as pl
from sklearn.base import BaseEstimator

from llmrec.config import RunConfig
from llmrec.dataset.importers import import_table
from llmrec.dataset.importers.guessing import guessed_columns
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.files import new_folder
from llmrec.finding import run_folder
from llmrec.hub import push_run
from llmrec.pipeline.recipes import with_defaults
from llmrec.pipeline.run import run_job
from llmrec.printing import one_line, short_line
from llmrec.recommender import Recommendation, Recommender
from llmrec.storage import work_folder
from llmrec.studies.held_out import HeldOut, held_out
from llmrec.written import handed_on

FRAMES = "frames"
"""The data set of `fit` in the working folder of the run."""


class LanguageModelRecommender(BaseEstimator):  # type: ignore[misc]
    """Fits the policy of a language model on events, items and users.

    Args:
        model: nano, a Hub id, a folder or a .gguf file.
        algorithm: what improves the policy (docs/algorithms.md); None takes that of the data's recipe.
        out: the run folder; the same `fit` on the same data resumes there. None makes a folder that goes with the
            object; keep it by `save`.
        settings: configuration keys, as `--set` takes them: {"sft.epochs": 1}.
        seed: of the run.
        name: of the data set, in reports.
        domain: shop, film, music, news, course or social: how prompts speak of items.
        force: replace a run of other data or settings in `out`.

    Attributes:
        recommender_: what was fitted or loaded.
        run_: its run folder.
        dataset_: the data set that was fitted, None where it was loaded without one.
    """

    def __init__(
        self,
        model: str = "nano",
        *,
        algorithm: str | None = None,
        out: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        name: str = "own",
        domain: str = "shop",
        force: bool = False,
    ) -> None:
        self.model, self.algorithm, self.out, self.settings = model, algorithm, out, settings
        self.seed, self.name, self.domain, self.force = seed, name, domain, force

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, revision: str | None = None, data: str | Path | None = None
    ) -> Self:
        """A finished run by its folder or Hub id, ready to recommend; `data` is the folder of a data set.

        Raises:
            RunError: not a run folder, or the repository cannot be read.
            DataError: `data` is not a data set.
        """
        folder = run_folder(model, revision=revision)
        made = cls(out=str(folder))
        made._take(folder, Recommender.load(folder, data=data))
        return made

    def fit(
        self,
        events: object,
        items: object = None,
        users: object = None,
        *,
        columns: Mapping[str, Mapping[str, str]] | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> Self:
        """Trains on tables: polars or pandas frames, `datasets.Dataset`, arrow tables, or columns by name.

        Args:
            events: one a row: user, item and, where there are, time, kind and value. Without times rows stand in
                their order.
            items: item and title, and where known description, categories, brand and price. None finds them in the
                events, which then have a title.
            users: user and profile; None where nothing is known of them.
            columns: by table, llmrec's column: the table's: {"events": {"item_id": "sku"}}. Usual names are guessed.
            kinds: value of the kind column: impression, click, cart, conversion, rating or ignore.

        Raises:
            DataError: a column is missing or could be several, or rows cannot be used; the sentence names it.
            LLMRecError: as `llmrec run` does.
        """
        tables = {"events": events, "items": events if items is None else items, "users": users}
        frames = {table: frame_of(data, table) for table, data in tables.items() if data is not None}
        unknown = sorted(set(columns or {}) - set(tables))
        if unknown:
            raise DataError(f"columns names the table {short_line(unknown[0])!r}; choose of {', '.join(tables)}.")
        named = {table: guessed_columns(f.columns, table, (columns or {}).get(table)) for table, f in frames.items()}
        dataset = self._imported(frames, named, kinds or {}, within=items is None)
        out = self._place()
        source = work_folder(out) / FRAMES
        dataset.save(source)
        keys = {"data.dataset": "folder", "data.source": str(source), "model.name": self.model, "seed": self.seed}
        if self.algorithm is not None:
            keys["algorithm"] = self.algorithm
        config = with_defaults(None, {**keys, **(self.settings or {})}, algorithm=self.algorithm)
        run_job(config, out, "LanguageModelRecommender.fit", force=self.force)
        self._take(out, Recommender.load(out, data=source))
        return self

    def recommend(self, **asked: Any) -> Recommendation:
        """See `Recommender.recommend`: exactly one of user, prompt and state, and `k`, `filters`, `explain`, ...

        Raises:
            RequestError: nothing was fitted or loaded yet, or as `Recommender.recommend` does.
        """
        return self._fitted().recommend(**asked)

    def evaluate(
        self,
        data: Dataset | str | Path | None = None,
        *,
        since: int | None = None,
        baselines: Sequence[str] = ("popularity", "covisitation"),
        test_events: int | None = 2000,
        seed: int = 0,
    ) -> HeldOut:
        """Ranks held-out events by the policy and baselines; `table` and `to_json()` of the answer hold the figures.

        Args:
            data: a data set or its folder; by default the one that was fitted, whose test period was held out.
            since: seconds; the test is all from then on, for data that go on from those of the fit.
            baselines: beside the policy; the first one is the reference.
            test_events: a uniform sample of this many; None takes all.
            seed: of samples and intervals.

        Raises:
            RequestError: nothing was fitted or loaded yet, or there are no data.
            DataError: as `llmrec evaluate` does.
        """
        known = self._fitted().data
        given = Dataset.load(Path(data)) if isinstance(data, str | Path) else data or known
        if given is None:
            raise RequestError("There are no data to evaluate on; give data= with a data set or its folder.")
        place = Path(data) if isinstance(data, str | Path) else self.run_
        split = RunConfig.read(self.run_ / "config.yaml").data.split
        options: dict[str, Any] = {"since": since, "split": split, "test_events": test_events, "seed": seed}
        if place == self.run_:  # in memory: what is asked of a folder is asked of a copy of it
            with tempfile.TemporaryDirectory(prefix="llmrec-") as folder:
                given.save(Path(folder) / FRAMES)
                return self._ranked(given, Path(folder) / FRAMES, baselines, options)
        return self._ranked(given, place, baselines, options)

    def _ranked(self, given: Dataset, place: Path, baselines: Sequence[str], options: dict[str, Any]) -> HeldOut:
        reference = baselines[0] if baselines else str(self.run_)
        return held_out(
            given, data=place, runs=[str(self.run_)], systems=tuple(baselines), reference=reference, **options
        )

    def save(self, folder: str | Path) -> Path:
        """Copies the run folder, which holds no user's rows, to a new `folder`; `from_pretrained` reads it.

        Raises:
            RequestError: nothing was fitted or loaded yet.
            RunError: `folder` holds something, or cannot be written.
        """
        self._fitted()
        with new_folder(Path(folder)) as place:
            for name in handed_on(self.run_):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.run_ / name, place / name)
        return Path(folder)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = True,
        revision: str | None = None,
        create_pr: bool = False,
        collection: str | None = None,
    ) -> str:
        """Uploads the run folder as one commit to USER/NAME and returns the commit's address.

        `collection` is one that the run is put into, see `hub.add_to_collection`.

        Raises:
            RequestError: nothing was fitted or loaded yet.
            RunError: see `hub.push_run`.
        """
        self._fitted()
        own: dict[str, Any] = {"revision": revision, "create_pr": create_pr, "collection": collection}
        return push_run(self.run_, repository, public=not private, **own)

    def _take(self, folder: Path, recommender: Recommender) -> None:
        self.run_, self.recommender_, self.dataset_ = folder, recommender, recommender.data

    def _fitted(self) -> Recommender:
        found: Recommender | None = getattr(self, "recommender_", None)
        if found is None:
            raise RequestError("Nothing is fitted yet; call fit, or load a run by from_pretrained.")
        return found

    def _place(self) -> Path:
        if self.out is not None:
            return Path(self.out)
        if not hasattr(self, "_own"):
            self._own = Path(tempfile.mkdtemp(prefix="llmrec-"))
            weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
        return self._own / "run"

    def _imported(
        self,
        frames: Mapping[str, pl.DataFrame],
        named: Mapping[str, Mapping[str, str]],
        kinds: Mapping[str, str],
        *,
        within: bool,
    ) -> Dataset:
        """The data set, by the importer of own tables."""
        with tempfile.TemporaryDirectory(prefix="llmrec-") as folder:
            tree: dict[str, Any] = {"name": self.name, "domain": self.domain, "kinds": dict(kinds)}
            for table, frame in frames.items():
                place = Path(folder) / f"{table}.parquet"
                frame.select(list(named[table].values())).write_parquet(place)
                tree[table] = {"file": place.name, "columns": dict(named[table])}
            tree["items"]["distinct"] = within
            if "time" not in named["events"]:
                tree["order"] = "file"
            try:
                return import_table(Path(folder), tree)
            except DataError as error:  # the files are nobody's: what is meant are the tables
                raise DataError(str(error).replace(f"{folder}/", "").replace(".parquet", "")) from None


def frame_of(data: Any, table: str) -> pl.DataFrame:
    """A table of any usual kind as a polars frame.

    Args:
        data: a polars or pandas frame, a `datasets.Dataset`, an arrow table, or a mapping of columns.
        table: its name in messages.

    Raises:
        DataError: it is none of these, or holds a column that no table can (named where it is known).
    """
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    try:
        if isinstance(data, pl.DataFrame):
            frame = data
        elif hasattr(data, "to_polars"):
            frame = data.to_polars()
        elif hasattr(data, "to_dict") and hasattr(data, "columns"):
            frame = pl.DataFrame({str(name): _column(data[name], str(name), table) for name in data.columns})
        elif hasattr(data, "__arrow_c_stream__") or isinstance(data, Mapping):
            frame = pl.DataFrame(data)
        else:
            raise DataError(
                f"Table {table} is a {type(data).__name__}; give a polars or pandas frame, a datasets.Dataset, an "
                "arrow table or a mapping of columns."
            )
    except DataError:
        raise
    except Exception as error:  # whatever arrow and polars raise for what no column holds
        raise DataError(
            f"Table {table} cannot be read as a frame ({type(error).__name__}: {one_line(error, 160)}); give columns "
            "of one type each."
        ) from None
    for name, kind in frame.schema.items():
        if kind in (pl.Object, pl.Binary) or isinstance(kind, pl.Struct):
            raise DataError(
                f"Column {short_line(name)!r} of table {table} holds {kind}; give text, numbers or times."
            )
    texts = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Categorical | pl.Enum)]
    return frame.with_columns(pl.col(texts).cast(pl.String))


def _column(column: Any, name: str, table: str) -> pl.Series:
    """A column of a pandas frame."""
    try:
        return pl.Series(name, column)
    except Exception as error:  # a column of objects that are of several types
        raise DataError(
            f"Column {short_line(name)!r} of table {table} cannot be read ({one_line(error, 120)}); give it one type."
        ) from None

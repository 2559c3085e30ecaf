"""The `llmrec` command. Bad input ends with one sentence on standard error and exit code 2; see `boundary`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from llmrec.cli import filter_options as wishes
from llmrec.cli.adapt import adapt_command, meta_command
from llmrec.cli.audit import audit_command
from llmrec.cli.batch import batch_command
from llmrec.cli.data import data_app
from llmrec.cli.data_hub import Collection
from llmrec.cli.enrich import enrich_command, review_command
from llmrec.cli.evaluate import evaluate_command
from llmrec.cli.export import export_command
from llmrec.cli.guard import boundary, set_environment
from llmrec.cli.online import online_app
from llmrec.cli.page import page_command
from llmrec.cli.serve import serve_command
from llmrec.cli.told import AsJson, Told, tell
from llmrec.cli.update import update_command
from llmrec.pipeline.work import LastStage
from llmrec.printing import command, echo
from llmrec.version import __version__

ALL = "all"
"""What a bare --explain asks for."""

app = typer.Typer(
    name="llmrec",
    help="Turn a language model into a recommender and improve it by reinforcement learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(data_app, name="data")
app.add_typer(online_app, name="online")
app.command("audit")(audit_command)
app.command("batch")(batch_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("enrich")(enrich_command)
app.command("review")(review_command)
app.command("serve")(serve_command)
app.command("page")(page_command)
app.command("update")(update_command)
app.command("adapt")(adapt_command)
app.command("meta-train")(meta_command)

Out = Annotated[Path, typer.Option("--out", help="The run folder; it appears whole when the job is done.")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="A configuration key, for example --set ppo.steps=200 (repeatable).")
]

Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace the run of another configuration; files that llmrec did not write are kept."
    ),
]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the world and of everything after it.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="A pretrained model: a Hub id, a folder or a .gguf file; hours on a CPU.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 (typer needs a literal; it is never changed)
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """The main job on a generated world: no GPU, no Hub, no account, some minutes on two cores.

    With --model it is the same with a pretrained model and a smaller budget (train/recipes/demo-pretrained.yaml).
    """
    from llmrec.pipeline.recipes import demo_config, overrides_of

    configuration = demo_config(seed, overrides_of({}, overrides), model)
    from llmrec.cli.run import run_and_print

    run_and_print(configuration, out, _command_line(), force=force, timed=True, as_json=as_json)


@app.command()
def run(
    out: Out,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="world, movielens, amazon, amazon-minionerec, complete-journey, hillstrom, coat, jester, "
            "open-bandit, book-crossing, goodbooks, kuairec, lastfm, mind, online-retail, recbole, retailrocket, "
            "steam, yelp, table or folder."
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="The data set's folder or file; without --dataset it must be a known layout.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="nano, a Hub id, a folder or a .gguf file: any causal language model.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML configuration (see train/recipes).")] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(help="What improves the policy (docs/algorithms.md); a world takes its recipe."),
    ] = None,
    stage: Annotated[
        LastStage | None, typer.Option(help="Make this stage and what it needs, and stop there; all by default.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="Rules of the run (docs/rules.md), a YAML file in place of the key rules.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let the configuration file name code to run (reward.custom).")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """The main job on your data: SFT, simulator, RL, evaluation, report. The same command resumes it.

    On several processes: accelerate launch -m llmrec run ..., or torchrun -m llmrec run ...
    """
    from llmrec.pipeline.recipes import overrides_of, with_defaults

    named: dict[str, object] = {
        "data.dataset": dataset,
        "data.source": source,
        "model.name": model,
        "algorithm": algorithm,
    }
    if rules is not None:
        from llmrec.rules import rule_trees

        named["rules"] = rule_trees(rules)
    configuration = with_defaults(config, overrides_of(named, overrides), algorithm=algorithm, trust_code=trust_code)
    from llmrec.cli.run import run_and_print

    run_and_print(configuration, out, _command_line(), force=force, stage=stage, as_json=as_json)


class Recommend(TyperCommand):
    """`--explain` with a number behind it or without one, which typer's options cannot be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts ALL behind a bare --explain."""
        given = [*args, ""]
        for place in reversed([n for n, word in enumerate(args) if word == "--explain"]):
            if not given[place + 1].lstrip("-").isdigit():
                given.insert(place + 1, ALL)
        rest: list[str] = super().parse_args(ctx, given[:-1])
        return rest


@app.command(cls=Recommend)
def recommend(
    model: Annotated[str, typer.Option(help="A run folder or a Hub id (USER/NAME).")],
    user: Annotated[str | None, typer.Option(help="A user of the run's data set.")] = None,
    prompt: Annotated[str | None, typer.Option(help='Free text, for example "I liked Fargo and Se7en".')] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    category: wishes.Category = [],  # noqa: B006
    brand: wishes.Brand = [],  # noqa: B006
    min_price: wishes.MinPrice = None,
    max_price: wishes.MaxPrice = None,
    in_stock: wishes.InStock = None,
    candidates: wishes.Candidates = None,
    exclude: wishes.Exclude = [],  # noqa: B006
    max_per_category: wishes.MaxPerCategory = None,
    rules: wishes.Rules = None,
    fuse: wishes.Fuse = None,
    exact: wishes.Exact = False,
    read_filters: Annotated[
        bool, typer.Option("--read-filters", help="Categories, brands and prices of the prompt become filters.")
    ] = False,
    words: Annotated[
        bool, typer.Option("--words/--no-words", help="Items that the prompt's words name come first.")
    ] = True,
    prefer: wishes.Prefer = [],  # noqa: B006
    explain: Annotated[
        str | None,
        typer.Option(metavar="[N]", help="Say why the first N items are recommended, all of them by default."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder (default: the run's own).")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints the best items for a user, or for a free prompt, with their scores.

    Filters take items away and change no score.
    """
    from llmrec.cli.show import asked_filters, asked_reasons, asked_weights, show_recommendations

    stock, filters = asked_filters(
        category, brand, (min_price, max_price), in_stock, candidates, exclude, max_per_category
    )
    asked: dict[str, Any] = {"filters": filters, "stock": stock, "exact": exact, "fuse": fuse}
    asked |= {"explain": asked_reasons(explain), "rules": rules, "by_words": words, "prefer": asked_weights(prefer)}
    show_recommendations(model, user, prompt, k, data, revision, as_json, read_filters=read_filters, **asked)


@app.command()
def items(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a Hub id (USER/NAME).")],
    out: Annotated[Path, typer.Option("--out", help="The new run folder; it appears whole or not at all.")],
    add: Annotated[
        Path | None,
        typer.Option(
            help="New items: CSV, Parquet or JSON lines with item_id and title, and where known description, "
            "categories (divided by |), brand, price."
        ),
    ] = None,
    remove: Annotated[Path | None, typer.Option(help="Items to take out: their ids, one a line.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    as_json: AsJson = False,
) -> None:
    """Adds and removes items of a finished run, without training: a new run folder with the same weights.

    What is removed goes first, so an item in both files is replaced.
    """
    from llmrec.cli.show import change_run

    tell(change_run(run_folder, add, remove, out, revision), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished run folders, side by side.")],
    out: Annotated[Path, typer.Option("--out", help="The report's folder; it appears whole or not at all.")],
    users: Annotated[
        bool, typer.Option("--users/--no-users", help="Show slates of a few users with their histories.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """One HTML page, and the same as Markdown, on one or several runs: tables, curves, losses, commands."""
    from llmrec.cli.show import make_report

    tell(make_report(runs, out, _command_line(), users=users), as_json)


@app.command()
def push(
    run_folder: Annotated[Path, typer.Argument(help="The run folder.")],
    repository: Annotated[str, typer.Argument(help="USER/NAME on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make it public (private unless told otherwise).")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to (made if missing).")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of pushing.")] = False,
    with_forgotten: Annotated[
        bool, typer.Option("--with-forgotten", help="Push a run that was trained on users who were forgotten since.")
    ] = False,
    collection: Collection = None,
    as_json: AsJson = False,
) -> None:
    """Uploads a run folder to the Hugging Face Hub as one commit."""
    from llmrec.hub import push_run

    own: dict[str, Any] = {"public": public, "revision": revision, "create_pr": create_pr}
    address = push_run(run_folder, repository, **own, with_forgotten=with_forgotten, collection=collection)
    tell(Told(address, address=address, repository=repository), as_json)


@app.command()
def forget(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PLACE...",
            help="Folders of data sets, run folders and event logs (files or postgresql://...), in any order.",
        ),
    ],
    user: Annotated[list[str], typer.Option("--user", help="A user's id; may be repeated.")] = [],  # noqa: B006
    users: Annotated[Path | None, typer.Option("--users", help="A file of ids, one a line.")] = None,
    as_json: AsJson = False,
) -> None:
    """Removes users from data sets and working folders, and marks the runs that were trained on them.

    Files that were imported, and copies of any of it elsewhere, are not touched.
    """
    from llmrec.cli.show import forget_users

    tell(forget_users(places, user, users), as_json)


@app.command("config")
def config_command(
    sections: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION]...", help="Only these, for example ppo gate.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="As a run on it would begin: with its recipe.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML configuration to fill up.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="What improves the policy.")] = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Prints a configuration as YAML, every key with what it means: by default what a run has where nothing is set.

    Save it, change it, and give it to `llmrec run --config FILE`.
    """
    from llmrec.cli.show import commented_config

    tell(commented_config(sections or (), dataset, config, algorithm, overrides), as_json)


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    commands: Annotated[bool, typer.Option("--commands", help="Print the commands behind the figures, too.")] = False,
) -> None:
    """Pretrained models that were tried, with figures, and the architectures that were checked."""
    from llmrec.cli.models import show_models

    show_models(as_json=as_json, commands=commands)


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Versions, machine and folders, for a report of a fault: no user's name, no secret."""
    from llmrec.cli.info import show_info

    show_info(as_json=as_json)


def _command_line() -> str:
    return command(["llmrec", *sys.argv[1:]])


def _version(value: bool) -> None:
    if value:
        echo(f"llmrec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version


def main(*before: str) -> None:
    """Entry point of the `llmrec` command; `before` are arguments that stand before those given (train/*.py)."""
    sys.argv[1:1] = before
    set_environment()
    with boundary("llmrec"):
        app(prog_name="llmrec")


if __name__ == "__main__":
    main()

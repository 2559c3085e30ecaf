"""`llmrec items`: items come and go in a finished run folder."""

from __future__ import annotations

from pathlib import Path

from llmrec.errors import RequestError


def change_run(run: str, add: Path | None, remove: Path | None, out: Path, revision: str | None = None) -> str:
    """Writes `out`, the run without the items named in `remove` and with those of `add`.

    Args:
        run: a run folder or a Hub id.
        add: items as CSV, Parquet or JSON lines.
        remove: item ids, one a line.
        out: the new run folder.
        revision: branch, tag or commit of a Hub repository.

    Returns:
        What was assumed about the file of items, and what was done, a line each.

    Raises:
        RequestError: neither file was given, or one that holds nothing.
        LLMRecError: whatever cannot be read, changed or written; then nothing is left behind.
    """
    if add is None and remove is None:
        raise RequestError("Give --add FILE, --remove FILE or both.")
    from llmrec.assortment import change_items, check_free, save_changed
    from llmrec.cli.show import read_ids
    from llmrec.dataset.importers.reading import Ledger
    from llmrec.dataset.importers.table import read_items
    from llmrec.export import items_from_frame, read_bundle
    from llmrec.files import reserved
    from llmrec.printing import one_line
    from llmrec.recommender import run_folder

    gone = () if remove is None else read_ids(remove, "--remove")
    ledger = Ledger(skippable=False)
    new = [] if add is None else items_from_frame(read_items(add, ledger=ledger))
    folder = run_folder(run, revision=revision)
    check_free(folder, out)
    with reserved(out):
        changed = change_items(read_bundle(folder), add=new, remove=gone)
        save_changed(changed, out)
    said = [f"Assumed: {one_line(text, 600)}" for text in ledger.assumptions]
    return "\n".join([*said, f"{len(new):,} added, {len(gone):,} removed; {out} has {len(changed.items):,} items."])

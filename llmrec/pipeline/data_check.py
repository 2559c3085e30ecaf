"""What a data set's check knows, said before the first stage: remarks as lines, what stops a run as an error."""

from __future__ import annotations

from llmrec.config import RunConfig
from llmrec.dataset.check import Finding, check, check_links, check_signals
from llmrec.dataset.linking import Funnel
from llmrec.dataset.split import PARTS, Part, Split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.pipeline.work import is_first, say
from llmrec.printing import one_line

_LONGEST = 400


def check_data(config: RunConfig, dataset: Dataset, split: Split) -> None:
    """Prints a line for each warning of `check` and for how feedback hangs together.

    Conversions that no click leads to are an error only where the reward counts conversions.

    Raises:
        DataError: the data set, or its training part, cannot be trained on.
    """
    window = config.data.link_window
    training = Funnel.of(dataset, split.train, window)
    look = check if is_first() else check_signals  # errors, which all processes must see, are of the signals alone
    findings = look(dataset, link_window=window)
    findings += [f for f in check_links(training, "of the training part ") if f.severity == "error"]
    errors = [f for f in findings if f.severity == "error" and _stops(config, f)]
    for finding in findings:
        if finding.severity != "info" and finding not in errors:
            say(
                one_line(
                    f"warning: {finding.rule}, {finding.count:,} in {finding.table}: {finding.meaning}.", _LONGEST
                )
            )
    if errors:
        mend = " (or give --set reward.conversion=0)" if errors[0].rule == "unlinked-conversions" else ""
        raise DataError(f"{dataset.manifest.name!r} cannot be trained on: {errors[0].meaning}{mend}.")
    say(f"feedback of the training part: {training}.", style="dim")


def _stops(config: RunConfig, finding: Finding) -> bool:
    return finding.rule != "unlinked-conversions" or config.reward.conversion != 0


def funnels(config: RunConfig, dataset: Dataset, split: Split) -> dict[Part, Funnel]:
    """How far the feedback of each part of the split hangs together."""
    return {part: Funnel.of(dataset, split.part(part), config.data.link_window) for part in PARTS}

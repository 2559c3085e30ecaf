"""Does a pretrained model of the Hub, or of a folder, work here? Tries every part of it that a run uses.

    python eval/check_pretrained.py Qwen/Qwen3-0.6B --json check.json

Exit code 0 if every check passes, else 2. No data is needed: prompts and items come from a small generated world. The
weights must be safetensors; code of the repository is never run, and its generation settings are never read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hub id (USER/NAME) or a folder with a causal language model")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.files import write_json
    from llmrec.model_check.checks import check_model
    from llmrec.screen import Screen

    report = check_model(options.model, options.revision)
    Screen(piped=118).print(report.to_rich())
    if options.json:
        write_json(options.json, report.to_json())
    if not report.passed:
        sys.exit(2)


if __name__ == "__main__":
    main()

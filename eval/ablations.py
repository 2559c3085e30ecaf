"""What does each part of the warm start add? One file lists the sides; this trains and ranks them.

    python eval/ablations.py train/recipes/ablations-quick.yaml --out runs/ablations-quick
    python eval/ablations.py train/recipes/ablations-movielens.yaml --source FOLDER --out runs/ablations-ml

What is done stays in --out: the same command goes on where it was stopped, and a side that is added to the file is
trained alone. Choose by `part: valid`; ask the test rows once. The file's keys are those of
llmrec.config.ablations.AblationSettings; unknown ones are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="YAML file of the ablation")
    parser.add_argument("--quick", action="store_true", help="the shipped ablations-quick.yaml on a generated world")
    parser.add_argument("--source", help="folder or file of the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="all sides")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.errors import ConfigError

    if options.quick == (options.file is not None):
        raise ConfigError("Give either the YAML file of an ablation or --quick.")
    from llmrec.pipeline.recipes import overrides_of, recipes_root
    from llmrec.studies.ablations import read_ablation, run_ablation

    file = recipes_root() / "ablations-quick.yaml" if options.quick else options.file
    ablation = read_ablation(file, overrides_of({"data.source": options.source}, options.overrides))
    run_ablation(ablation, options.out, json_file=options.json)


if __name__ == "__main__":
    main()

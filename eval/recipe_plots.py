"""What a training looks like when it goes well, and in three ways in which it goes wrong.

    python eval/recipe_plots.py --out runs/recipe --json recipe.json

One small generated world, four trainings of about a minute: sound, against a reward that can be exploited, collapsed
to a few items, and with groups of draws that all earn the same. Under --out are the curves as every run draws them;
those of docs/recipe.md were made so. Resumable: stages are kept under --out.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    StudyScript(__doc__, out="runs/recipe", seeds=(0,)).run("llmrec.studies.recipe:run_recipe")

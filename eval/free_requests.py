"""Free requests: who answers "something in yoga made by Marlow", or "like this but cheaper", with items that fit?

    python eval/free_requests.py --seeds 1000 1001 --out runs/requests
    python eval/free_requests.py --dataset movielens --source FOLDER --seeds 0 --shares --out runs/requests-films

200 requests a seed are drawn from the catalogue, so which items answer them is known. --shares are the weights of
`sft.mixture.item_from_prompt` that policies are warm-started with (none: no policy is trained). --run FOLDER adds the
policy of a finished run on the same items, --model FOLDER the hidden states and the likelihood of a pretrained model,
LLMREC_EMBEDDINGS sentence embeddings.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/requests", seeds=(1000, 1001))
    script.add_argument("--dataset", default="world", help="an importer's name, folder, or world")
    script.add_argument("--source", help="folder or file of the data set")
    script.add_argument("--requests", type=int, default=200, help="for each seed")
    script.add_argument("--shares", type=float, nargs="*", default=(0.05, 0.24), metavar="WEIGHT")
    script.add_argument("--run", metavar="FOLDER", help="a finished run on the same items")
    script.add_argument("--model", help="folder or Hub id of a pretrained model")
    script.run("llmrec.studies.free_requests:free_requests")

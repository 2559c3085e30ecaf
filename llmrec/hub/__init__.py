"""Runs, data sets and collections on the Hugging Face Hub: one commit up, one snapshot down, nothing unpickled.

The Hub's address and token are huggingface_hub's own (HF_ENDPOINT, HF_TOKEN, `hf auth login`).
"""

from llmrec.hub.collections import add_to_collection
from llmrec.hub.data import data_card, fetch_dataset, pull_dataset, push_dataset
from llmrec.hub.runs import fetch_run, push_run

__all__ = [
    "add_to_collection",
    "data_card",
    "fetch_dataset",
    "fetch_run",
    "pull_dataset",
    "push_dataset",
    "push_run",
]

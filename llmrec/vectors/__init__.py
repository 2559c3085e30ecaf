"""Texts as vectors: the one home of every way from words to numbers that needs no language-model policy.

    words       TF-IDF over the terms of given texts; sparse, and other texts fall into the same space
    hashed      hashed TF-IDF and an SVD: dense, and saved as arrays alone
    sentences   a sentence-transformers model
    space       items and free texts in one space, whatever the encoder

The mean hidden state of a causal model is `policy.mean_hidden.TextEncoder`, an `Encode` as well.
"""

from llmrec.vectors.sentences import SentenceEncoder, sentence_encoder
from llmrec.vectors.space import Encode, EncodedSpace, Rows, Space, item_text
from llmrec.vectors.words import WordSpace, unspaced

__all__ = [
    "Encode",
    "EncodedSpace",
    "Rows",
    "SentenceEncoder",
    "Space",
    "WordSpace",
    "item_text",
    "sentence_encoder",
    "unspaced",
]

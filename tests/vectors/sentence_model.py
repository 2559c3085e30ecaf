"""A BERT of two layers as an ordinary sentence-transformers folder with mean pooling and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch


def write_sentence_model(folder: Path, words: Sequence[str]) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, **sizes))
    model.save_pretrained(folder)
    kinds = (("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize"))
    modules = [
        f'{{"idx": {idx}, "name": "{idx}", "path": "{path}", "type": "sentence_transformers.models.{kind}"}}'
        for idx, path, kind in kinds
    ]
    (folder / "modules.json").write_text(f"[{', '.join(modules)}]")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}'
    )
    (folder / "2_Normalize").mkdir()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')

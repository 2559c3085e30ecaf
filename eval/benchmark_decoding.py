"""The K best items of a prompt: llmrec against Hugging Face beam search under the same constraint.

    python eval/benchmark_decoding.py --items 100000 --k 50
    python eval/benchmark_decoding.py --shape qwen2.5-0.5b --k 50 --users 1 --repeats 1 \\
        --sides dictionary prefilled llmrec

The opponents decode the same model, prompts, catalogue and K:
  dictionary  beam search with a processor that looks each row's prefix up in a dictionary, as the projects of
              generative recommendation write it (log-softmax over the vocabulary, then the mask)
  prefix_fn   beam search with `prefix_allowed_tokens_fn`
  prefilled   the same, from a cache of the prompt that is read once and then copied to the K beams
Lists and scores are compared first; opponents renormalise over legal tokens for that (`renormalize_logits`).
Random weights; prompts of --prompt tokens; identifiers of four tokens. One CPU thread unless --threads says more.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIDES = ("dictionary", "prefix_fn", "prefilled", "llmrec")


def parse() -> argparse.Namespace:
    import speed

    parser = speed.parser(__doc__)
    parser.add_argument("--k", type=int, default=50, help="items wanted, and beams of every side")
    speed.add_sides(parser, SIDES, ("float32", "bfloat16"))
    return parser.parse_args()


class Decoders:
    """Every side as a function of no argument, on one model, one catalogue and some prompts."""

    def __init__(self, options: argparse.Namespace) -> None:
        import speed

        made = speed.Material(options, options.users)
        self.model, self.tokens, self.index = made.model, made.tokens_NL, made.index
        self.ids, self.mask, self.k, self.prompt = made.ids, made.mask, options.k, options.prompt
        self.children: dict[tuple[int, ...], list[int]] = {}
        if options.only_memory_of != "llmrec":
            self.children = speed.legal_tokens(self.tokens)

    def side(self, name: str, renormalise: bool = True) -> Callable[[], Any]:
        """A function that gives items (B, K) and scores (B, K)."""
        if name == "llmrec":
            return self.llmrec
        if name == "dictionary":
            return lambda: self.huggingface(renormalise, logits_processor=[Dictionary(self.children, self.k)])
        legal = lambda _, row: self.children[tuple(row[self.prompt :].tolist())]  # noqa: E731
        if name == "prefix_fn":
            return lambda: self.huggingface(True, prefix_allowed_tokens_fn=legal)
        return lambda: self.huggingface(True, prefix_allowed_tokens_fn=legal, past_key_values=self.prefilled())

    def llmrec(self) -> tuple[Any, Any]:
        """Our beam search."""
        from llmrec.policy.decoding import beam_search

        return beam_search(self.model, self.ids, self.mask, self.k, self.index, beams=self.k)

    def prefilled(self) -> Any:
        """A cache of all but the last token of each prompt, copied to its beams."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        with torch.no_grad():
            self.model.get_decoder()(input_ids=self.ids[:, :-1], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(self.k)
        return cache

    def huggingface(self, renormalise: bool, **how: Any) -> tuple[Any, Any]:
        """Hugging Face beam search under a constraint given by `how`."""
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            num_beams=self.k,
            num_return_sequences=self.k,
            max_new_tokens=4,
            do_sample=False,
            length_penalty=0.0,
            renormalize_logits=renormalise,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=0,
        )
        with torch.no_grad():
            out = self.model.generate(self.ids, attention_mask=self.mask, generation_config=config, **how)
        tokens = out.sequences[:, self.prompt :].view(-1, self.k, 4)
        return self.item_of(tokens), out.sequences_scores.view(-1, self.k)

    def item_of(self, tokens_BKL: Any) -> Any:
        """Item indices of four-token rows: the catalogue's rows are sorted."""
        import numpy as np
        import torch

        radix = (self.model.config.vocab_size) ** np.arange(3, -1, -1, dtype=object)
        keys = {int(key): i for i, key in enumerate(self.tokens.astype(object) @ radix)}
        flat = tokens_BKL.reshape(-1, 4).cpu().numpy().astype(object) @ radix
        return torch.tensor([keys.get(int(key), -1) for key in flat]).view(tokens_BKL.shape[:2])


class Dictionary:
    """A logits processor as it is commonly written: one look-up a row, a mask over the whole vocabulary."""

    def __init__(self, children: dict[tuple[int, ...], list[int]], beams: int) -> None:
        self.children, self.beams, self.step = children, beams, 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Log-probabilities over the vocabulary plus the mask, (rows, V)."""
        import torch

        scores = torch.log_softmax(scores, -1)
        mask = torch.full_like(scores, -1e6)
        for row, ids in enumerate(input_ids):
            legal = self.children.get(tuple(ids[len(ids) - self.step :].tolist()), [])
            if legal:
                mask[row, legal] = 0
        self.step += 1
        return scores + mask


def agreement(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> dict[str, float]:
    """Share of places with the same item, share of items in both lists, largest difference of scores."""
    (items, scores), (other, others) = ours, theirs
    items, other = items.cpu(), other.cpu()
    both = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(items, other, strict=True)]
    return {
        "same place": float((items == other).float().mean()),
        "same items": sum(both) / items.numel(),
        "score difference": float((scores.cpu().float() - others.cpu().float()).abs().max()),
    }


def main() -> None:
    options = parse()
    import speed

    decoders = Decoders(options)
    if options.only_memory_of:
        print(json.dumps({"bytes": speed.extra_memory(decoders.side(options.only_memory_of, False))}))
        return
    from llmrec.screen import results

    ours = decoders.llmrec()
    agree = {name: agreement(ours, decoders.side(name)()) for name in options.sides if name != "llmrec"}
    sides = {name: decoders.side(name, renormalise=False) for name in options.sides}
    # each side has run once for the comparison, which warms it up
    seconds = speed.in_turn(sides, options.repeats, device=options.device, warm_up=0)
    memory = {name: speed.memory_of(name) for name in options.sides} if options.memory else {}
    figures = {}
    results().print(
        f"{options.shape}, {options.items} items, K = {options.k}, prompt {options.prompt}, {options.dtype}"
    )
    for name in options.sides:
        row = {
            "seconds": seconds[name],
            "users per second": options.users / sorted(seconds[name])[len(seconds[name]) // 2],
            "times as long as llmrec": speed.ratio(seconds[name], seconds["llmrec"]),
            "extra bytes": memory.get(name),
            **agree.get(name, {}),
        }
        figures[name] = row
        shown = {key: value for key, value in row.items() if key != "seconds" and value is not None}
        results().print(f"  {name:11s}" + "  ".join(f"{key} {_short(value)}" for key, value in shown.items()))
    speed.keep(options, figures)


def _short(value: float) -> str:
    return f"{value / 2**20:.0f} MiB" if value > 1e5 else f"{value:.4g}"


if __name__ == "__main__":
    main()

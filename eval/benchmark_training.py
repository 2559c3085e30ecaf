"""Forward and backward of one policy update: G items for each of B prompts, in several ways.

    python eval/benchmark_training.py --draws 8 --memory
    python eval/benchmark_training.py --draws 16 --lora --memory
    python eval/benchmark_training.py --shape qwen2.5-0.5b --draws 16 --prompts 1 --repeats 1 --sides llmrec rows

The sides read the same prompts, items and advantages; the loss is that of a policy gradient.
  llmrec     one row a prompt: the prompt once, the items' prefixes behind it, the head for legal tokens only
  rows       B * G rows of prompt and item; `logits_to_keep`; softmax over the vocabulary masked to legal tokens
  unmasked   the same rows without the mask: what is learnt by those who score on the full softmax
  trl        the scoring of `trl.GRPOTrainer`: the same rows, its fused head, no mask
Log-probabilities and gradients are compared first, llmrec with rows and trl with unmasked. trl over llmrec is split
into its head (trl over unmasked) and the rest (unmasked over llmrec). The masks of `rows` are made before the clock
starts; everything that llmrec does with items is inside. Random weights; identifiers of four tokens.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from torch import Tensor

SIDES = ("llmrec", "rows", "unmasked", "trl")
TWINS = (("llmrec", "rows"), ("trl", "unmasked"))
LENGTH = 4


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    import speed

    parser = speed.parser(__doc__, updates=True)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, all sides")
    speed.add_sides(parser, SIDES, ("float32", "bfloat16", "float64"))
    return parser.parse_args(arguments)


class Updates:
    """One model, one catalogue, prompts with their items, and the log-probabilities of every side: (B, G, L)."""

    def __init__(self, options: argparse.Namespace) -> None:
        import speed
        import torch
        from trl.trainer.utils import add_fused_lm_head

        made = speed.Material(options, options.prompts)
        base, self.index, self.ids, self.mask = made.model, made.index, made.ids, made.mask
        add_fused_lm_head(base, outputs=("log_probs",))  # idle unless asked for
        self.model = with_adapters(base) if options.lora else base
        if options.checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.train()
        random = torch.Generator().manual_seed(3)
        shape = (options.prompts, options.draws)
        self.items_BG = torch.randint(options.items, shape, generator=random).to(options.device)
        self.advantage_BG = torch.randn((*shape, 1), generator=random).to(options.device)
        self.tokens_RL = torch.from_numpy(made.tokens_NL).to(options.device)[self.items_BG.flatten()]
        self.illegal_RLV = None if options.only_memory_of not in (None, "rows") else self.illegal(made.vocabulary)

    def illegal(self, vocabulary: int) -> Tensor:
        """Tokens that no item of the catalogue has behind the tokens so far."""
        import torch

        before, _ = self.index.prefixes(self.items_BG.flatten())
        token, _, legal = self.index.children(before)
        mask = torch.ones((*before.shape, vocabulary), dtype=torch.bool, device=before.device)
        row, place, child = torch.nonzero(legal, as_tuple=True)
        mask[row, place, token[row, place, child]] = False
        return mask

    def log_probs(self, side: str) -> Tensor:
        """By one of the sides."""
        if side == "llmrec":
            from llmrec.policy.scoring import score_items

            return score_items(self.model, self.ids, self.mask, self.items_BG, self.index).log_prob_BGL
        draws = self.items_BG.shape[1]
        import torch

        ids = torch.cat([self.ids.repeat_interleave(draws, 0), self.tokens_RL], 1)
        mask = torch.cat([self.mask.repeat_interleave(draws, 0), torch.ones_like(self.tokens_RL)], 1)
        out = self.fused(ids, mask) if side == "trl" else self.rows(ids, mask, side == "rows")
        return out.view(*self.items_BG.shape, LENGTH)

    def fused(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As `trl.GRPOTrainer` calls its fused head."""
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-LENGTH] = -100
        out: Tensor = self.model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
        return out[:, -LENGTH:]

    def rows(self, ids: Tensor, mask: Tensor, legal_only: bool) -> Tensor:
        """The usual code."""
        import torch

        out = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=LENGTH + 1, use_cache=False)
        logits = out.logits[:, :-1].to(torch.promote_types(out.logits.dtype, torch.float32))
        if legal_only:
            logits = logits.masked_fill(self.illegal_RLV, -torch.inf)
        chosen: Tensor = logits.gather(-1, self.tokens_RL.unsqueeze(-1)).squeeze(-1)
        return chosen - logits.logsumexp(-1)

    def update(self, side: str) -> Tensor:
        """Log-probabilities, detached; gradients are left on the parameters."""
        self.model.zero_grad(set_to_none=True)
        log_prob = self.log_probs(side)
        loss = -(log_prob - log_prob.detach()).exp() * self.advantage_BG
        loss.sum().backward()
        return log_prob.detach()

    def gradient(self, side: str) -> tuple[Tensor, Tensor]:
        """Log-probabilities and all gradients as one vector."""
        import torch

        log_prob = self.update(side)
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.trainable()]
        return log_prob, torch.cat([part.flatten().double() for part in parts])

    def trainable(self) -> list[Any]:
        """Parameters that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]


def with_adapters(base: Any) -> Any:
    """LoRA with both factors away from zero, so that every adapter has a gradient."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(0.2)
    return model.eval()


def agreement(bench: Updates, side: str, twin: str) -> dict[str, float]:
    """Largest difference of log-probabilities, and |g - g'| / |g'| over all gradients."""
    (log_prob, gradient), (other, others) = bench.gradient(side), bench.gradient(twin)
    return {
        "log-prob difference": float((log_prob - other).abs().max()),
        "gradient difference": float((gradient - others).norm() / others.norm()),
    }


def peak(bench: Updates, side: str, device: str) -> int:
    """Bytes above the loaded model at the highest point of a first update."""
    import speed
    import torch

    if device == "cpu":
        return speed.extra_memory(lambda: bench.update(side))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    bench.update(side)
    return torch.cuda.max_memory_allocated() - before


def measure(bench: Updates, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds, ratios, memory and agreement of every side."""
    import speed

    agree = {a: agreement(bench, a, b) for a, b in TWINS if a in options.sides and b in options.sides}
    sides: dict[str, Callable[[], Any]] = {name: (lambda name=name: bench.update(name)) for name in options.sides}
    seconds = speed.in_turn(sides, options.repeats, device=options.device, warm_up=0 if agree else 1)
    figures: dict[str, dict[str, Any]] = {}
    for name in options.sides:
        figures[name] = {"seconds": seconds[name], **agree.get(name, {})}
        if "llmrec" in seconds:
            figures[name]["times as long as llmrec"] = speed.ratio(seconds[name], seconds["llmrec"])
        if options.memory:
            figures[name]["extra bytes"] = speed.memory_of(name)
    if {"trl", "unmasked", "llmrec"} <= seconds.keys():
        figures["trl"]["of this its head"] = speed.ratio(seconds["trl"], seconds["unmasked"])
        figures["trl"]["and the rest"] = speed.ratio(seconds["unmasked"], seconds["llmrec"])
    return figures


def show(figures: dict[str, dict[str, Any]]) -> Any:
    """One line a side."""
    import statistics

    from rich.table import Table

    table = Table()
    for name in ("side", "seconds", "× llmrec", "extra memory", "log-prob off by", "gradient off by", "split"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for name, row in figures.items():
        split = (
            f"head {row['of this its head']:.2f} × rest {row['and the rest']:.2f}" if "and the rest" in row else ""
        )
        table.add_row(
            name,
            f"{statistics.median(row['seconds']):.3f}",
            f"{row.get('times as long as llmrec', float('nan')):.2f}",
            f"{row['extra bytes'] / 2**20:.0f} MiB" if "extra bytes" in row else "",
            f"{row['log-prob difference']:.1e}" if "log-prob difference" in row else "",
            f"{row['gradient difference']:.1e}" if "gradient difference" in row else "",
            split,
        )
    return table


def main() -> None:
    options = parse()
    bench = Updates(options)
    if options.only_memory_of:
        print(json.dumps({"bytes": peak(bench, options.only_memory_of, options.device)}))
        return
    import speed

    from llmrec.screen import results

    figures = measure(bench, options)
    trained = sum(p.numel() for p in bench.trainable()) / 1e6
    how = f"LoRA, {trained:.2f} M trained" if options.lora else f"all {trained:.1f} M weights trained"
    results().print(
        f"{options.shape}, {options.items} items, B = {options.prompts}, G = {options.draws}, prompt of "
        f"{options.prompt}, {options.dtype}, {how}; {options.repeats} rounds, CPU seconds"
        if options.device == "cpu"
        else f"{options.shape} on {options.device}"
    )
    results().print(show(figures))
    speed.keep(options, figures)


if __name__ == "__main__":
    main()

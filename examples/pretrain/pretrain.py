"""Train a tokenizer and a small masked language model from plain text, in a given time.

    python pretrain.py --text corpus.txt --output model --minutes 14

One GPU or, slowly, a CPU; PyTorch 2.9 or newer. The learning rate follows the clock: it rises for 3% of the time,
stays, and falls from 55% on (``--fall``), so that the last step has the smallest rate whenever the time is up. Stopped
with Ctrl-C and started again with the same output, it goes on where it was; with ``--start`` it trains a model further
that is there. The folder it writes loads with ``SentenceTransformer(folder)``, and ``mirror_tune`` makes an encoder of
it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from text import token_stream, train_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

WARM_UP, LAST = 0.03, 0.02  # share of the time, and of the learning rate at its end
SAVE_EVERY = 60  # seconds
MADE_FROM = ("text", "start", "tokenizer", "vocabulary", "characters", "layers", "width", "heads", "inner")
DROPOUTS = ("attention_dropout", "embedding_dropout", "mlp_dropout")
Loss = Callable[[ModernBertForMaskedLM, Tensor], Tensor]  # of a model on rows of ids


def new_model(tokenizer: PreTrainedTokenizerFast, layers: int, width: int, heads: int, inner: int):
    """Pre-norm with rotary positions and gated units, which learn far faster in a short time than BERT's layers."""
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=512,
        global_attn_every_n_layers=1,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    return ModernBertForMaskedLM(config)


def model_of(folder: Path) -> ModernBertForMaskedLM:
    """The model of a folder in float32, without the dropout that its config keeps for mirror tuning: a few passes over
    text do not overfit.

    Raises:
        ValueError: If it is of another architecture.
    """
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind != "modernbert":
        raise ValueError(f"{str(folder)!r} holds a model of type {kind}; --start goes on from a ModernBERT.")
    return ModernBertForMaskedLM.from_pretrained(folder, dtype=torch.float32, **dict.fromkeys(DROPOUTS, 0.0))


class Blocks:
    """Rows of running text, [CLS] before and [SEP] after, in a new order and cut at other places in each pass.

    Args:
        stream: All ids, shape (tokens,).
        length: Tokens of a row.
        tokenizer: Whose special tokens are put around.
        device: Where the stream lies; batches are gathered there.
    """

    def __init__(self, stream: np.ndarray, length: int, tokenizer: PreTrainedTokenizerFast, device: str) -> None:
        self.stream = torch.from_numpy(stream.astype(np.int32)).to(device)
        self.length, self.tokenizer, self.device = length, tokenizer, device

    def passes(self, batch: int, skip: int = 0):
        """Batches without end, shape (batch, length), int64; the first ``skip`` of them are not made."""
        inside = self.length - 2
        rows = (len(self.stream) - inside) // inside
        if rows < batch:
            raise ValueError(f"The text has {rows} rows of {self.length} tokens, fewer than one batch of {batch}.")
        position = torch.arange(inside, device=self.device)
        number, made = 0, 0
        while True:
            draw = torch.Generator().manual_seed(number)  # of each pass, so that a run that goes on sees the same
            offset = int(torch.randint(inside, (), generator=draw))
            # On the device in one go: a copy in each step would wait for the step before.
            order = torch.randperm(rows, generator=draw).to(self.device)
            for begin in range(0, rows - batch + 1, batch):
                made += 1
                if made > skip:
                    starts = order[begin : begin + batch] * inside + offset
                    text = self.stream[starts[:, None] + position].long()
                    yield F.pad(
                        F.pad(text, (1, 0), value=self.tokenizer.cls_token_id),
                        (0, 1),
                        value=self.tokenizer.sep_token_id,
                    )
            number += 1


@dataclass(frozen=True)
class Masked:
    """Args: ids with some of them hidden, (rows, tokens); which were, (rows, count); and what they are."""

    ids: Tensor
    places: Tensor
    labels: Tensor


class Hide:
    """Hides a share of each row, never special tokens: 80% become [MASK], 10% another token, 10% stay.

    As many in each row, so that shapes are fixed and a GPU is never asked how many there are.

    Args:
        tokenizer: Whose tokens they are.
        share: Of the tokens of a row, in (0, 1).
        device: Where the rows lie.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, share: float, device: str) -> None:
        special = tokenizer.all_special_ids
        self.first = len(special) if max(special) < len(special) else 0  # ours come first; others may be drawn
        self.special = torch.tensor(special, device=device)
        self.share, self.mask, self.size = share, tokenizer.mask_token_id, len(tokenizer)

    def __call__(self, ids: Tensor, generator: torch.Generator | None = None) -> Masked:
        draw = torch.rand(ids.shape, device=ids.device, generator=generator)
        draw = draw.masked_fill(torch.isin(ids, self.special), -1)
        places = draw.topk(max(1, round(self.share * ids.shape[1])), dim=1).indices
        labels = ids.gather(1, places)
        fate = torch.rand(places.shape, device=ids.device, generator=generator)
        other = torch.randint(self.first, self.size, places.shape, device=ids.device, generator=generator)
        new = torch.where(fate < 0.8, self.mask, torch.where(fate < 0.9, other, labels))
        return Masked(ids.scatter(1, places, new), places, labels)


def loss_of(model: ModernBertForMaskedLM, masked: Masked) -> Tensor:
    """Mean cross-entropy of the hidden tokens in nats; only they go through the vocabulary."""
    hidden = model.model(masked.ids).last_hidden_state
    hidden = hidden.gather(1, masked.places[..., None].expand(-1, -1, hidden.shape[-1]))
    logits = model.decoder(model.head(hidden))
    return F.cross_entropy(logits.flatten(0, 1).float(), masked.labels.flatten())


def optimizers(model: ModernBertForMaskedLM, rate: float, fused: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(matrices, rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.01, fused=fused),
    ]


def share_of_rate(progress: float, fall: float) -> float:
    """Of the learning rate, after a share of the time, where it falls from ``fall`` of the time on."""
    fall = (1 - progress) / (1 - fall)
    return max(LAST, min(1.0, progress / WARM_UP, fall))


def save(model: ModernBertForMaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """In half precision; the config says float32 (else it would be loaded in half, and an update of 2e-5 is lost in
    that) and dropout 0.1, which makes the two views of a text differ in mirror tuning.

    Each file is exchanged at once, so that a folder that is read meanwhile, or left by a crash, is whole."""
    new = folder / "work" / "new"
    deepcopy(model).half().save_pretrained(new)  # a state of halves would have the tied weights twice
    path = new / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    config.update(dict.fromkeys(DROPOUTS, 0.1))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(new)
    for file in new.iterdir():
        file.replace(folder / file.name)


def prepared(
    args: argparse.Namespace, work: Path, parser: argparse.ArgumentParser
) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """The tokenizer and the ids of all tokens, made once; refuses to mix runs of other text or another size."""
    asked = {name: str(getattr(args, name)) for name in MADE_FROM}
    note = work / "made_from.json"
    if not note.exists():
        work.mkdir(parents=True, exist_ok=True)
        if args.start or args.tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(args.start or args.tokenizer)
        else:
            tokenizer = train_tokenizer(args.text, args.vocabulary, args.characters)
        tokenizer.save_pretrained(work)
        np.save(work / "tokens.npy", token_stream(args.text, tokenizer))
        note.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    elif asked != (made := json.loads(note.read_text(encoding="utf-8"))):
        others = ", ".join(f"--{name} {made[name]}" for name in MADE_FROM if made[name] != asked[name])
        parser.error(f"{str(args.output)!r} was begun with {others}; say so again or name another --output.")
    return AutoTokenizer.from_pretrained(work), np.load(work / "tokens.npy")


def options() -> argparse.ArgumentParser:
    """The parser rather than what it read, because text and sizes are refused through it later, with the usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a paragraph a line; .xz and .gz are read, too")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of a model to train further, whose tokenizer and size stay")
    parser.add_argument("--tokenizer", type=Path, help="folder of one to use, instead of a new one")
    parser.add_argument("--minutes", type=float, default=14, help="of training (default: %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--characters", type=int, default=400, help="different ones in it, the most frequent")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--inner", type=int, default=512, help="width inside of a feed-forward layer")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--batch", type=int, help="rows a step (default: 64 on a CPU, 1024 on a GPU)")
    parser.add_argument("--mask", type=float, default=0.2, help="share of tokens to hide (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--fall", type=float, default=0.55, help="share of the time, in [0, 1), after which it falls")
    parser.add_argument("--compile", action="store_true", help="compile the model: slower to start, faster on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prepare", action="store_true", help="make the tokens only, to train on another machine")
    return parser


def machine() -> tuple[str, bool]:
    """The device, and whether its hardware has bfloat16; emulated, it would gain nothing."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
    return "cpu", any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def describe(tokenizer: PreTrainedTokenizerFast, stream: np.ndarray, device: str, bf16: bool) -> None:
    """Said before the training, because a tokenizer that does not know the text's characters would waste its time."""
    unknown = float((stream == tokenizer.unk_token_id).mean())
    print(
        f"{len(stream):,} tokens, {unknown:.2%} of them unknown, vocabulary {len(tokenizer):,}, {device}, "
        f"{'bf16' if bf16 else 'fp32'}",
        flush=True,
    )
    if unknown > 0.01:
        print("Many characters are unknown: delete the output and ask for more --characters.", flush=True)


@dataclass
class Checkpoint:
    """All that a run needs to go on where another stopped; the text's order follows from the step.

    Args:
        file: Where it is kept.
        model: Trained in place.
        steppers: Its optimizers.
        step: Steps taken, in earlier runs, too.
        seconds: Of training, up to when it was last kept.
        losses: (step, seconds, mean loss) of every 50 steps.
    """

    file: Path
    model: ModernBertForMaskedLM
    steppers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float, float]] = field(default_factory=list)

    def load(self, device: str) -> bool:
        """Takes over what an earlier run kept; False if there was none."""
        if not self.file.exists():
            return False
        state = torch.load(self.file, map_location=device)
        self.model.load_state_dict(state["model"])
        for stepper, one in zip(self.steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(one)
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        return True

    def keep(self, seconds: float) -> None:
        """Writes another file and exchanges it at once: a crash leaves the old or the new one."""
        self.seconds = seconds
        state = {
            "model": self.model.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in self.steppers],
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        new = self.file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.file)


def begin(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, device: str) -> Checkpoint:
    """A new model or that of ``--start``, or as an earlier run with this output left it."""
    torch.manual_seed(args.seed)
    if args.start:
        model = model_of(args.start)
    else:
        model = new_model(tokenizer, args.layers, args.width, args.heads, args.inner)
    # Short rows: on a CPU the backward pass of fused attention takes longer than plain products.
    model.set_attn_implementation("sdpa" if device == "cuda" else "eager")
    model.to(device).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    checkpoint = Checkpoint(args.output / "work" / "checkpoint.pt", model, optimizers(model, args.rate, fused=True))
    if checkpoint.load(device):
        torch.manual_seed(args.seed + checkpoint.step)  # else the same tokens would be hidden as at the start
        print(f"goes on at step {checkpoint.step}, {checkpoint.seconds / 60:.1f} minutes", flush=True)
    return checkpoint


def loss_with(hide: Hide, device: str, bf16: bool, compiled: bool) -> Loss:
    """In the precision of the device; the warm-up and the steps share it, so that what is compiled before the clock
    starts is what the steps run."""
    compute = torch.compile(loss_of) if compiled else loss_of

    def loss(model: ModernBertForMaskedLM, ids: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            return compute(model, hide(ids))

    return loss


def take_step(checkpoint: Checkpoint, loss: Loss, ids: Tensor, rate: float) -> Tensor:
    """One step at this learning rate; its loss stays on the device, because reading it would wait for a GPU."""
    for stepper in checkpoint.steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
    value = loss(checkpoint.model, ids)
    value.backward()
    torch.nn.utils.clip_grad_norm_(checkpoint.model.parameters(), 1.0)
    for stepper in checkpoint.steppers:
        stepper.step()
        stepper.zero_grad()
    checkpoint.step += 1
    return value.detach()


def note_loss(checkpoint: Checkpoint, recent: list[Tensor], seconds: float) -> float:
    """The mean of recent losses, which is noted; refuses one that is not a number before such a model is kept."""
    mean = torch.stack(recent).mean().item()
    if not math.isfinite(mean):
        raise FloatingPointError(f"The loss is not a number at step {checkpoint.step}; lower --rate.")
    checkpoint.losses.append((checkpoint.step, round(seconds, 1), round(mean, 4)))
    return mean


def train(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerFast,
    blocks: Blocks,
    loss: Loss,
) -> None:
    """Steps until the time is up, that of earlier runs counted, and keeps the checkpoint; on Ctrl-C, too, so that no
    step is lost.

    Raises:
        SystemExit: On Ctrl-C, or if there was no time for a single step.
        FloatingPointError: If the loss is not a number; what was kept before stays.
    """
    begun, before = checkpoint.step, checkpoint.seconds
    start = kept = time.perf_counter()
    recent: list[Tensor] = []
    try:
        for ids in blocks.passes(args.batch, skip=begun):
            seconds = before + time.perf_counter() - start
            progress = seconds / (60 * args.minutes)
            if progress >= 1:
                break
            recent.append(take_step(checkpoint, loss, ids, args.rate * share_of_rate(progress, args.fall)))
            step = checkpoint.step
            if step % 50 == 0:  # reading a loss waits for the GPU
                mean = note_loss(checkpoint, recent, seconds)
                recent.clear()
                speed = (step - begun) * args.batch * args.length / (seconds - before)
                print(f"step {step:6}  {seconds / 60:6.2f} min  loss {mean:.3f}  {speed:,.0f} tokens/s", flush=True)
                if time.perf_counter() - kept > SAVE_EVERY:
                    kept = time.perf_counter()
                    checkpoint.keep(seconds)
                    save(checkpoint.model, tokenizer, args.output)
    except KeyboardInterrupt:
        checkpoint.keep(before + time.perf_counter() - start)
        raise SystemExit(f"Stopped at step {checkpoint.step}; the same command goes on from there.") from None
    if checkpoint.step == begun:
        raise SystemExit(f"{args.minutes:g} minutes have passed already; ask for more --minutes to train further.")
    checkpoint.keep(before + time.perf_counter() - start)


def main() -> None:
    parser = options()
    args = parser.parse_args()
    device, bf16 = machine()
    args.batch = args.batch or (1_024 if device == "cuda" else 64)
    tokenizer, stream = prepared(args, args.output / "work", parser)
    describe(tokenizer, stream, device, bf16)
    if args.prepare:
        return

    checkpoint = begin(args, tokenizer, device)
    blocks, hide = Blocks(stream, args.length, tokenizer, device), Hide(tokenizer, args.mask, device)
    loss = loss_with(hide, device, bf16, args.compile)
    if args.compile:  # outside of the time, of which it could be much
        loss(checkpoint.model, next(blocks.passes(args.batch))).backward()
        checkpoint.model.zero_grad()
    train(args, checkpoint, tokenizer, blocks, loss)
    save(checkpoint.model, tokenizer, args.output)
    told = {key: str(value) for key, value in vars(args).items()}
    run = {**told, "batch": args.batch, "steps": checkpoint.step, "losses": checkpoint.losses}
    (args.output / "pretrain.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(f"{checkpoint.step} steps; written to {args.output}", flush=True)


if __name__ == "__main__":
    main()

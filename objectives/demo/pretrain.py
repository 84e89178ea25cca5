"""Train the demonstration model from nothing: a tokenizer, then a small Llama that predicts the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
VOCABULARY = 768
CONTEXT = 256
BATCH = 32
LEARNING_RATE = 3e-3
WARM_UP = 0.05


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be encoded, and decoding gives it back. Encoding starts with ``<s>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=CONTEXT
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    report: Callable[[int, int, float], None],
) -> None:
    """One pass over ``texts``, ``BATCH`` of them a step; ``report(step, steps, loss)`` is called after each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    steps = len(texts) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    model.train()
    for step, (ids, labels) in enumerate(_batches(tokenizer, texts, steps), 1):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(step, steps, loss.item())
    model.eval()


def _rate(done: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    return done / WARM_UP if done < WARM_UP else 0.505 + 0.495 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))


def _batches(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels, both (BATCH, length); padding is on the right, so that no token attends to it."""
    for step in range(steps):
        chosen = [f"{text}{EOS}" for text in texts[step * BATCH : (step + 1) * BATCH]]
        ids = tokenizer(chosen, padding=True, return_tensors="pt")["input_ids"]
        yield ids, ids.masked_fill(ids == tokenizer.pad_token_id, -100)

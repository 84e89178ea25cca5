"""Which label a causal model finds likeliest behind each prompt: exact, without scoring every label."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from objectives.backbone import decoding_state, positions_argument
from objectives.batches import pad
from objectives.cut import LOGITS, Cut, logits_at
from objectives.encoding import EncodedRow
from objectives.probing import same_but_for_rounding, tried
from objectives.training import completion_batch

#: Gives log p (pairs, longest label, tokens that occur in labels), zero behind a label's end, of pairs (row, label).
Scorer = Callable[[Tensor, Tensor], Tensor]


class LabelTrie:
    """What scoring one label says about the others: they share tokens from the start."""

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        longest = max(len(ids) for ids in labels)
        count = len(labels)
        self.ids = labels
        self.lengths = torch.tensor([len(ids) for ids in labels])
        every = torch.tensor([token for ids in labels for token in ids])
        self.vocabulary, flat = torch.unique(every, return_inverse=True)
        #: Tokens of each label (labels, longest), as indices into ``vocabulary``: all of it that a score needs.
        self.tokens = torch.zeros(count, longest, dtype=torch.long)
        self.inside = torch.arange(longest) < self.lengths[:, None]
        self.tokens[self.inside] = flat
        #: Of how many first tokens of another label a score tells (scored, other): those that both begin with, and one
        #: more, since scoring label a gives the distribution that b's next token is drawn from.
        self.known = torch.ones(count, count, dtype=torch.int32)
        alike = torch.ones(count, count, dtype=torch.bool)
        for place in range(longest):  # not at once: thousands of labels have gigabytes of pairs of tokens
            token = torch.where(self.inside[:, place], self.tokens[:, place], -1)
            alike &= (token[:, None] == token) & self.inside[:, place]
            self.known += alike
        self.known = torch.minimum(self.known, self.lengths.int())

    def bounds(self, log_p: Tensor, scored: Tensor) -> Tensor:
        """Upper bounds (rows, labels) on log-likelihoods, from what a scorer gave for the ``scored`` labels (rows,)."""
        each = log_p.gather(2, self.tokens.T[None].expand(len(log_p), -1, -1)).transpose(1, 2)
        is_unknown = torch.arange(self.tokens.shape[1]) >= self.known[scored][:, :, None]
        return each.masked_fill(is_unknown, 0.0).sum(-1)

    def is_exact(self, scored: Tensor) -> Tensor:
        """Of which labels a score of the ``scored`` ones (rows,) tells everything: (rows, labels)."""
        return self.known[scored] == self.lengths


def likeliest(trie: LabelTrie, truth: Tensor, scorer: Scorer) -> tuple[list[int], float]:
    """The label with the highest log-likelihood for each row, and the summed log-likelihood of ``truth`` (rows,).

    A label's log-likelihood is a sum of non-positive terms, so what is known of its first tokens bounds it from above.
    The true label is scored first (its loss is wanted anyhow); then, row by row, the label with the highest bound,
    until no bound exceeds the best exact score. With 77 labels a trained model needs one to three passes instead of 77.
    """
    bound = torch.zeros(len(truth), len(trie.lengths), dtype=torch.float64)
    exact = torch.zeros_like(bound, dtype=torch.bool)
    asked, label = torch.arange(len(truth)), truth
    while len(asked):
        bound[asked] = torch.minimum(bound[asked], trie.bounds(scorer(asked, label), label))
        exact[asked] |= trie.is_exact(label)
        best = bound.masked_fill(~exact, -torch.inf).max(-1).values
        open_bound, open_label = bound.masked_fill(exact, -torch.inf).max(-1)
        asked = (open_bound > best).nonzero().flatten()
        label = open_label[asked]
    predicted: list[int] = bound.masked_fill(~exact, -torch.inf).argmax(-1).tolist()
    return predicted, bound.gather(1, truth[:, None]).sum().item()


def whole_pass_scorer(model: Any, rows: Sequence[EncodedRow], trie: LabelTrie, pad_id: int, cut: Cut) -> Scorer:
    """Each pair in a pass of its own, prompt and label: what every causal model can do."""

    def scorer(asked: Tensor, labels: Tensor) -> Tensor:
        pairs = [
            EncodedRow(rows[row].prompt, list(trie.ids[label]))
            for row, label in zip(asked.tolist(), labels.tolist(), strict=True)
        ]
        ids, positions, _ = completion_batch(pairs, pad_id, model.device)
        out = torch.zeros(len(pairs), *trie.tokens.shape[1:], len(trie.vocabulary), dtype=torch.float64)
        out[trie.inside[labels]] = _log_p(logits_at(model, ids, positions, cut=cut), trie)
        return out

    return scorer


def shared_prompt_scorer(model: Any, rows: Sequence[EncodedRow], trie: LabelTrie, pad_id: int, cut: Cut) -> Scorer:
    """Each prompt in one pass, its labels behind the state that this leaves.

    Prompts are padded on the left, so that all end at the same place. Raises TypeError if the model keeps another state
    than keys and values of every token; see :func:`prompt_is_shareable` for what else a model could do otherwise.
    """
    prompt, mask = (tensor.to(model.device) for tensor in pad([row.prompt for row in rows], pad_id, left=True))
    width = prompt.shape[1]
    last = torch.arange(1, len(rows) + 1, device=model.device) * width - 1
    logits, state = _pass(model, prompt, mask, {}, last, cut)
    first = _log_p(logits, trie)
    ((name, cache),) = state.items()
    if any(type(layer).__name__ != "DynamicLayer" for layer in getattr(cache, "layers", [None])):
        raise TypeError(f"{type(cache).__name__} cannot be shared")

    def scorer(asked: Tensor, labels: Tensor) -> Tensor:
        out = torch.zeros(len(asked), *trie.tokens.shape[1:], len(trie.vocabulary), dtype=torch.float64)
        out[:, 0] = first[asked]
        longer = (trie.lengths[labels] > 1).nonzero().flatten()
        if not len(longer):
            return out
        where, ids = asked[longer], [trie.ids[label][:-1] for label in labels[longer].tolist()]
        # Padded on the right: no token sees what stands behind it.
        tokens, inside = (tensor.to(model.device) for tensor in pad(ids, pad_id))
        few = copy.copy(cache)
        # Of the layers too: selecting rebinds their tensors, and writes to none.
        few.layers = [copy.copy(layer) for layer in cache.layers]
        few.batch_select_indices(where.to(model.device))
        seen = torch.cat([mask[where.to(model.device)], torch.ones_like(tokens)], dim=1)
        logits, _ = _pass(model, tokens, seen, {name: few}, inside.flatten().nonzero().flatten(), cut)
        pair, token = trie.inside[labels[longer], 1:].nonzero(as_tuple=True)
        out[longer[pair], token + 1] = _log_p(logits, trie)
        return out

    return scorer


def _pass(
    model: Any, ids: Tensor, mask: Tensor, state: dict[str, Any], at: Tensor, cut: Cut
) -> tuple[Tensor, dict[str, Any]]:
    extra = state | {"attention_mask": mask, "use_cache": True}
    if positions_argument(model):
        # As generation counts them: from the first token that is no padding.
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    found: dict[str, Any] = {}
    logits = logits_at(model, ids, at, cut=cut, found=found, **extra)
    return logits, decoding_state(found["output"])


def _log_p(logits: Tensor, trie: LabelTrie) -> Tensor:
    """(positions, tokens that occur in labels); all other tokens of few positions at once, since they are many."""
    wanted = trie.vocabulary.to(logits.device)
    parts = torch.split(logits, max(1, LOGITS // logits.shape[-1]))
    return torch.cat([part.float().log_softmax(-1)[:, wanted] for part in parts]).cpu().double()


@torch.inference_mode()
def prompt_is_shareable(model: Any, pad_id: int, cut: Cut) -> bool:
    """Whether :func:`shared_prompt_scorer` gives this architecture's own scores; measured, not assumed."""
    size = model.config.get_text_config().vocab_size
    tokens = [(7 * i + 5) % size for i in range(24)]
    rows = [EncodedRow(tokens[:3], []), EncodedRow(tokens[:14], [])]
    trie = LabelTrie([tokens[14:15], tokens[16:19], tokens[19:24]])
    asked, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 2])
    expected = whole_pass_scorer(model, rows, trie, pad_id, cut)(asked, labels)
    shared = tried(lambda: shared_prompt_scorer(model, rows, trie, pad_id, cut)(asked, labels))
    return shared is not None and same_but_for_rounding(shared, expected, model.dtype)

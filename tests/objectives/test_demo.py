from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from objectives.demo import corpus, data_dir, make, model_dir

SPLITS = ("train", "validation", "test")
Rows = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return {
        split: [json.loads(line) for line in (data_dir() / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in SPLITS
    }


def test_what_ships_is_at_most_five_megabytes() -> None:
    files = [file for folder in (model_dir(), data_dir()) for file in folder.iterdir()]
    assert all(file.is_file() for file in files), "package-data takes files of these folders only"
    assert 0 < sum(file.stat().st_size for file in files) <= 5_000_000


def test_every_split_has_the_same_labels_none_of_them_rare(rows: Rows) -> None:
    for split in SPLITS:
        counts = Counter(row["label"] for row in rows[split])
        assert tuple(sorted(counts)) == corpus.LABELS
        even_share = len(rows[split]) / len(corpus.LABELS)
        assert min(counts.values()) >= 0.6 * even_share
        assert max(counts.values()) <= 1.4 * even_share


def test_no_text_occurs_twice(rows: Rows) -> None:
    texts = [row["text"] for split in SPLITS for row in rows[split]]
    assert len(set(texts)) == len(texts)


def test_rebuilding_the_data_gives_the_shipped_files(tmp_path: Path) -> None:
    make.write_data(tmp_path)
    for split in SPLITS:
        shipped = (data_dir() / f"{split}.jsonl").read_bytes()
        assert (tmp_path / f"{split}.jsonl").read_bytes() == shipped, split


def test_the_generator_depends_on_its_seed_alone() -> None:
    def first(seed: int) -> list[corpus.Message]:
        return list(itertools.islice(corpus.messages(seed), 50))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_pretraining_text_holds_neither_the_task_format_nor_its_texts(rows: Rows) -> None:
    task_texts = {row["text"] for split in SPLITS for row in rows[split]}
    transcripts = corpus.transcripts(make.SEED + 1, 5000, exclude=task_texts)
    assert len(transcripts) == 5000
    for transcript in transcripts:
        message, reply = transcript.split("\n")
        assert "Answer:" not in transcript
        assert reply not in corpus.LABELS
        assert message not in task_texts


def test_the_model_loads_and_has_the_seven_linear_groups() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir(), local_files_only=True)
    groups = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert groups - {"lm_head"} == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_the_model_has_learned_the_language(rows: Rows) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir(), local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir(), local_files_only=True)
    batch = tokenizer([row["text"] for row in rows["test"][:32]], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model(**batch, labels=labels).loss.item()
    assert loss < 1.2, "nats per token; an untrained model has ln(768) = 6.6"


def test_the_tokenizer_loads_with_its_special_tokens_and_gives_texts_back(
    rows: Rows,
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir(), local_files_only=True)
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    for text in [row["text"] for row in rows["test"][:50]] + ["Grüße, 你好\n\tA  B"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_each_label_is_one_token_after_a_space() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir(), local_files_only=True)
    ids = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in corpus.LABELS]
    assert all(len(tokens) == 1 for tokens in ids)
    assert len({tokens[0] for tokens in ids}) == len(corpus.LABELS)

"""The engine for servers: adapters handed over, both models asked by turns, classes as the server has them."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from objectives.errors import ModelError, RequestError
from objectives.latency.prompts import Prompts
from objectives.latency.server import ServerEngine, write_random_adapter
from objectives.placement import BASE, Placement
from objectives.tokenizer import load_tokenizer
from tests.objectives.latency.scripted import SETTINGS, VLLM, Script, ScriptedServer, engine, serving
from tests.objectives.tiny import Zoo, all_groups


@pytest.fixture
def answers_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is taken for one that was held back, as a busy machine does to some: those are asked for again."""
    monkeypatch.setattr("objectives.latency.server._AT_ONCE", 0.0)


@pytest.mark.usefixtures("answers_as_they_come")
def test_base_and_adapter_are_asked_by_turns(zoo: Zoo) -> None:
    with serving(Script(each=[0.004], slower=1.5, **VLLM)) as server:
        opened = engine(zoo, server)
        pair = opened.open(Placement.of(["o_proj"], 4), seed=0)
        requests = [pair.request() for _ in range(4)]
        asked = [sent.body["model"] for sent in server.sent]
        name = next(iter(server.loaded))
        assert asked == ["served-name", name, name, "served-name"] * 2
        body = server.sent[0].body
        assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (8, True, 0)
        assert isinstance(body["prompt"], str)
        opened.close()
        assert server.loaded == {}, "the server is left as it was found"
    # Wide: the server's own sleeps are as late as the machine is busy.
    assert sorted(float(r.ratios[0]) for r in requests)[1] == pytest.approx(1.5, rel=0.3)
    assert all(len(r.base) == len(r.adapted) == 1 for r in requests)


@pytest.mark.usefixtures("answers_as_they_come")
def test_the_ratio_of_requests_at_once_is_that_of_their_means(zoo: Zoo) -> None:
    with serving(Script(each=[0.004, 0.016], slower=1.5, **VLLM)) as server:
        opened = engine(zoo, server, concurrency=2)
        pair = opened.open(Placement.of(["o_proj"], 4), seed=0)
        ratios = sorted(float(pair.request().ratios[0]) for _ in range(3))
        opened.close()
    # Wide: the server's own sleeps are as late as the machine is busy. The medians over the smallest would be 3.75.
    assert ratios[1] == pytest.approx(1.5, rel=0.3)


def test_requests_run_at_once(zoo: Zoo) -> None:
    with serving(Script(first=[0.05], each=[0.01], **VLLM)) as server:
        opened = engine(zoo, server, concurrency=4)
        request = opened.open(BASE, seed=0).request()
        opened.close()
        assert server.most_at_once == 4
        assert {sent.body["model"] for sent in server.sent} == {"served-name"}
    assert len(request.base) == len(request.adapted) == 4


@pytest.mark.usefixtures("answers_as_they_come")
def test_requests_at_once_go_to_several_adapters(zoo: Zoo) -> None:
    with serving(Script(**VLLM)) as server:
        opened = engine(zoo, server, concurrency=4)
        opened.open_mixed(Placement.of(["o_proj"], 4), 2, seed=0).request()
        asked = sorted(sent.body["model"] for sent in server.sent)
        one, other = sorted(server.loaded)
        assert asked == ["served-name"] * 4 + [one] * 2 + [other] * 2
        opened.close()
        assert server.loaded == {}


def test_what_a_server_says_of_itself_is_part_of_its_facts(zoo: Zoo) -> None:
    """A server that was started again with another model, or a newer one, has none of the profiles of before."""
    facts = []
    for model in ({"root": "/models/a", "max_model_len": 4096, "created": 1}, {"root": "/models/b", "created": 2}):
        with serving(Script(owner="sglang", model=model)) as server:
            opened = engine(zoo, server)
            opened.close()
            assert opened.facts["device"] == f"sglang 0.9 at {server.url}"
            assert opened.facts["versions"] == "0.9"
            facts.append(opened.facts["model"])
    assert facts == ["id served-name, root /models/a, max_model_len 4096", "id served-name, root /models/b"]


def test_flags_that_sglang_was_started_with_are_part_of_its_facts(zoo: Zoo) -> None:
    """Which layers are wrapped, and at which rank, is what an adapter costs there."""
    info = {"version": "0.5.1", "max_lora_rank": 16, "lora_target_modules": ["q_proj", "o_proj"], "last_gen": 3.1}
    with serving(Script(owner="sglang", info=info)) as server:
        opened = engine(zoo, server)
        opened.close()
    assert opened.facts["versions"] == "0.5.1"
    assert opened.facts["model"] == "id served-name, max_lora_rank 16, lora_target_modules ['o_proj', 'q_proj']"


def test_an_address_without_models(zoo: Zoo) -> None:
    with serving(Script(models=False, **VLLM)) as server, pytest.raises(RequestError) as caught:
        engine(zoo, server)
    assert str(caught.value) == (
        f"--endpoint {server.url} has no /v1/models (status 404), by which a server says what it serves: give "
        "the address of an OpenAI-compatible server, without a path"
    )


def test_a_server_that_is_not_up_yet_is_not_taken_for_one_that_is_not_known(zoo: Zoo) -> None:
    with serving(Script(away=503, **VLLM)) as server, pytest.raises(RequestError) as caught:
        engine(zoo, server)
    assert str(caught.value) == (
        f'--endpoint {server.url} refused /v1/models (status 503: {{"error": "starting"}}): look into the server\'s log'
    )


@pytest.mark.usefixtures("answers_as_they_come")
def test_sglang_takes_the_adapter_in_a_field_of_its_own(zoo: Zoo) -> None:
    with serving(Script(owner="sglang")) as server:
        opened = engine(zoo, server)
        opened.open(Placement.of(["o_proj"], 4), seed=0).request()
        assert [sent.body.get("lora_path") for sent in server.sent] == [None, *server.loaded]
        assert server.sent[0].body["skip_special_tokens"] is False, "each token has a text, and so a time"
        assert {sent.body["model"] for sent in server.sent} == {"served-name"}
        opened.close()
        assert server.loaded == {}


@pytest.mark.usefixtures("answers_as_they_come")
def test_transformers_serve_takes_a_folder_of_model_and_adapter(zoo: Zoo) -> None:
    with serving(Script(paths=["/v1/completions", "/load_model"])) as server:
        opened = engine(zoo, server)
        opened.open(Placement.of(["o_proj"], 4), seed=0).request()
        base, adapted = (Path(sent.body["model"]) for sent in server.sent)
        assert base == zoo.folder("llama")
        assert (adapted / "model.safetensors").resolve() == base / "model.safetensors"
        assert json.loads((adapted / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
        assert "ignore_eos" not in server.sent[0].body
        opened.close()
        assert not adapted.exists()


@pytest.mark.usefixtures("answers_as_they_come")
def test_transformers_serve_is_told_to_forget_each_adapter(zoo: Zoo) -> None:
    """It holds a copy of the base model for each: after a profile 24 of them."""
    with serving(Script(paths=["/v1/completions", "/load_model", "/reset"])) as server:
        opened = engine(zoo, server)
        for group in ("o_proj", "q_proj"):
            opened.open(Placement.of([group], 4), seed=0).request()
        opened.close()
        assert [path for path in server.calls if path.startswith(("/reset", "/v1/completions"))] == [
            "/v1/completions",
            "/v1/completions",
            "/reset",
        ] * 2


@pytest.mark.parametrize("script", [Script(**VLLM), Script(paths=["/v1/completions", "/load_model"])])
def test_adapters_do_not_pile_up(zoo: Zoo, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(script) as server:
        opened = engine(zoo, server)
        for group in ("o_proj", "q_proj", "k_proj"):
            opened.open(Placement.of([group], 4), seed=0).request()
            assert len(list(tmp_path.glob("*/*"))) == 1, "that of the adapter that is served"
        opened.close()
    assert list(tmp_path.iterdir()) == []
    assert (zoo.folder("llama") / "model.safetensors").is_file(), "links to the model's files went, not the files"


def test_a_vllm_that_loads_nothing_while_it_runs(zoo: Zoo) -> None:
    with serving(Script(loads=False, **VLLM)) as server:
        opened = engine(zoo, server)
        with pytest.raises(RequestError) as caught:
            opened.open(Placement.of(["o_proj"], 4), seed=0)
        opened.close()
    assert str(caught.value) == (
        f"--endpoint {server.url} does not load adapters while it runs: start vLLM with --enable-lora and "
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
    )


def test_a_vllm_that_sees_another_file_system(zoo: Zoo) -> None:
    with serving(Script(sees=False, **VLLM)) as server:
        opened = engine(zoo, server)
        with pytest.raises(RequestError) as caught:
            opened.open(Placement.of(["o_proj"], 4), seed=0)
        opened.close()
    assert str(caught.value).startswith(f"--endpoint {server.url} sees no adapter at {tempfile.gettempdir()}/")
    assert str(caught.value).endswith(": give the server this machine's temporary folder (TMPDIR) under the same path")


def test_a_server_that_wants_a_key(zoo: Zoo) -> None:
    """It does not even say what it is, and was told as one that is not known."""
    with serving(Script(wants_key=True, **VLLM)) as server, pytest.raises(RequestError) as caught:
        engine(zoo, server)
    assert str(caught.value) == (
        f"--endpoint {server.url} wants a key (status 401), and none is ever sent: measure on a server that was "
        "started without one"
    )


def test_a_server_that_is_not_known(zoo: Zoo) -> None:
    with serving(Script()) as server:
        opened = engine(zoo, server)
        opened.open(BASE, seed=0).request()
        with pytest.raises(RequestError) as caught:
            opened.open(Placement.of(["o_proj"], 4), seed=0)
        opened.close()
    assert str(caught.value) == (
        f"--endpoint {server.url} is not known to load adapters while it runs (it is neither vLLM, SGLang nor "
        "transformers serve): measure with --engine transformers instead"
    )


def refusal(zoo: Zoo, server: ScriptedServer) -> str:
    """What a request for the base model is refused with."""
    opened = engine(zoo, server)
    with pytest.raises(RequestError) as caught:
        opened.open(BASE, seed=0).request()
    opened.close()
    return str(caught.value)


def test_an_answer_of_one_token_has_no_tpot(zoo: Zoo) -> None:
    with serving(Script(owner="vllm", tokens=1)) as server:
        said = refusal(zoo, server)
    assert said == (
        f"--endpoint {server.url} ended the answers to 5 prompts in a row after one token, so that they have no time "
        "per output token: try again, with other prompts"
    )


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (
            True,
            "sent 8 tokens in one chunk, so that they have no time per output token: let the server, and every proxy "
            "before it, stream token by token",
        ),
        (
            False,
            "sent the answers to 5 prompts in a row in one chunk without saying how many tokens they have, so that "
            "there is no time per output token: let the server, and every proxy before it, stream token by token, or "
            "try again, with other prompts",
        ),
    ],
    ids=["counted", "not counted"],
)
def test_an_answer_that_is_not_streamed_has_no_tpot(zoo: Zoo, usage: bool, sentence: str) -> None:
    with serving(Script(whole=True, usage=usage)) as server:
        said = refusal(zoo, server)
    assert said == f"--endpoint {server.url} {sentence}"


@pytest.mark.usefixtures("answers_as_they_come")
def test_a_prompt_whose_answer_ends_at_once_is_passed_over(zoo: Zoo) -> None:
    with serving(Script(answers=[1, 8, 8, 8])) as server:
        opened = engine(zoo, server)
        request = opened.open(BASE, seed=0).request()
        opened.close()
        assert len(server.sent) == 4
    assert [each.output_tokens for each in (*request.base, *request.adapted)] == [8, 8]


#: So many tokens that a pause while they are read, which a busy machine may make, is little for each of them.
MANY: dict[str, Any] = {"first": [0.001], "tokens": 400}


def test_an_answer_that_was_held_back_is_asked_for_again(zoo: Zoo) -> None:
    with serving(Script(each=[0.0008], gathered=[True, False, False, True, False, False], **MANY)) as server:
        opened = engine(zoo, server)
        request = opened.open(BASE, seed=0).request()
        opened.close()
        assert len(server.sent) == 6, "first the base model's came late, then the adapted one's"
    assert min(each.tpot or 0.0 for each in (*request.base, *request.adapted)) > 1.9e-4


def test_of_answers_at_once_those_that_were_held_back_are_left_out(zoo: Zoo) -> None:
    with serving(Script(each=[0.0008], gathered=[True, False, False, False], **MANY)) as server:
        opened = engine(zoo, server, concurrency=2)
        request = opened.open(BASE, seed=0).request()
        opened.close()
    assert sorted([len(request.base), len(request.adapted)]) == [1, 2]
    assert min(each.tpot or 0.0 for each in (*request.base, *request.adapted)) > 1.9e-4


def test_a_proxy_that_gathers_answers_is_told_of(zoo: Zoo) -> None:
    with serving(Script(each=[0.0], gathered=[True], **MANY)) as server:
        said = refusal(zoo, server)
    assert said == (
        f"--endpoint {server.url} sent 400 tokens one by one, but 20 times in a row all of an answer came at once, so "
        "that they have no time per output token: let every proxy before the server stream token by token, or measure "
        "while server and this machine do less"
    )


def prompts_of(server: ScriptedServer) -> list[str]:
    return [sent.body["prompt"] for sent in server.sent]


@pytest.mark.usefixtures("answers_as_they_come")
def test_no_prompt_is_one_whose_prefix_a_server_may_have_kept(zoo: Zoo) -> None:
    """Warm-up, requests, rows of a block, openings: base and adapter are asked the same, and nothing else is."""
    with serving(Script(first=[0.001], each=[0.0005], **VLLM)) as server:
        opened = engine(zoo, server, concurrency=2)
        for group in ("o_proj", "q_proj"):
            pair = opened.open(Placement.of([group], 4), seed=0)
            for _ in range(3):
                pair.request()
        opened.close()
        asked = Counter(prompts_of(server))
        assert len(asked) == 2 * 3 * 2, "placements, requests, rows"
        assert set(asked.values()) == {2}
        by_model = {(sent.body["model"] == "served-name", sent.body["prompt"]) for sent in server.sent}
        assert len(by_model) == len(server.sent)
        other = engine(zoo, server, concurrency=1)
        before = len(server.sent)
        other.open(BASE, seed=0).request()
        other.close()
        itself = prompts_of(server)[before:]
        assert len({*itself}) == 2, "the base model against itself"
        assert not {*itself} & asked.keys(), "requests at once have prompts of their own"


@pytest.mark.parametrize("tokens", [8, 33])
def test_a_prompt_has_the_tokens_that_are_asked_for(zoo: Zoo, tokens: int) -> None:
    """A text of random tokens is tokenised otherwise: into nearly twice as many, where a vocabulary is small."""
    prompts = Prompts(zoo.folder("llama"), replace(SETTINGS, prompt_tokens=tokens))
    tokenizer = load_tokenizer(zoo.folder("llama"))
    assert {len(tokenizer(prompts.next())["input_ids"]) for _ in range(20)} == {tokens}


@pytest.mark.usefixtures("answers_as_they_come")
def test_a_command_that_is_given_again_asks_other_prompts(zoo: Zoo) -> None:
    """Also with equal seeds: the server still keeps the prefixes of the first."""
    with serving(Script(first=[0.001], each=[0.0005], **VLLM)) as server:
        for _ in range(2):
            opened = engine(zoo, server)
            opened.open(BASE, seed=0).request()
            opened.close()
        assert len({*prompts_of(server)}) == len(server.sent) == 4


def test_adapters_of_a_process_that_was_killed_are_in_nobodys_way(zoo: Zoo) -> None:
    with serving(Script(**VLLM)) as server:
        killed, opened = engine(zoo, server), engine(zoo, server)
        for each in (killed, opened):
            each.open(Placement.of(["o_proj"], 4), seed=0).request()
        opened.close()
        assert len(server.loaded) == 1
        killed.close()


def test_a_model_without_a_tokenizer_leaves_no_folder_behind(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(Script(**VLLM)) as server, pytest.raises(ModelError):
        ServerEngine(server.url, tmp_path / "model", zoo.space("llama"), SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_server_that_is_gone_leaves_no_folder_behind(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(Script(**VLLM)) as server:
        opened = engine(zoo, server)
        opened.open(Placement.of(["o_proj"], 4), seed=0).request()
    with pytest.raises(RequestError, match="does not answer"):
        opened.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_random_adapter_loads_with_peft(zoo: Zoo, name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    space = zoo.space(name)
    write_random_adapter(zoo.folder(name), space, all_groups(space), 0, tmp_path)
    loaded = PeftModel.from_pretrained(zoo.copy(name), str(tmp_path))
    parameters = {n: p for n, p in loaded.named_parameters() if "lora_" in n}
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as weights:
        assert len(weights.keys()) == len(parameters)
    assert all(p.any() for p in parameters.values())

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import Any

import pytest

from search.terminal import print_comparison, print_latency, print_list, print_modules, print_result
from tests.dashboards import documents
from tests.search.pseudo_terminal import terminal, without_codes

LONG = "down_proj+gate_proj+k_proj+o_proj+q_proj+up_proj+v_proj r16"


pytestmark = pytest.mark.usefixtures("plain_environment")


def printed(document: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_result(document, stream)
    assert "\x1b" not in stream.getvalue()
    return stream.getvalue()


def test_the_result_in_a_pipe() -> None:
    text = printed(documents.document())
    lines = [re.sub(r" {2,}", "  ", line.strip()) for line in text.splitlines()]
    assert lines[0] == "demo: complete, 6 of 6 trials (4 complete, 1 failed, 1 infeasible) in 2m11s"
    assert lines[1] == "trial  placement  test accuracy  validation  TPOT ratio  TPOT p95 ms  parameters"
    assert lines[3] == "-  base model  0.210 [0.180, 0.250]  0.200  1.000  4.10  0"
    assert (
        lines[5]
        == "2  down_proj+o_proj r8  0.640 [0.610, 0.670]  0.660  1.200 [1.180, 1.220]  4.60  12,800  recommended"
    )
    assert lines[7].startswith("Recommended: down_proj+o_proj r8 (trial 2): the cheapest within one standard error")
    assert "Hypervolume 0.530." in lines
    assert "1 failed: the loss is NaN at step 3" in lines
    assert lines[-1] == "note: 3 texts were cut at 128 tokens."


@pytest.mark.parametrize("case", documents.ALL)
def test_every_document_prints(case: str) -> None:
    full = documents.ALL[case]()
    text = printed(full)
    assert all(row["label"] in text for row in full["front"])


def test_what_has_no_front_has_no_hypervolume() -> None:
    assert "Hypervolume" not in printed(documents.empty() | {"hypervolume": 0.0})


def test_the_printed_command_finds_the_search() -> None:
    stream = io.StringIO()
    print_result(documents.document(), stream, " --home h")
    assert "Export it: python -m search export demo --pick recommended --out DIR --home h\n" in stream.getvalue()


def test_no_placement_is_cut_in_a_pipe() -> None:
    full = documents.document()
    full["front"][0]["label"] = "+".join(f"layer_{number}_projection" for number in range(12)) + " r8"
    assert full["front"][0]["label"] in printed(full)


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_nothing_is_cut_in_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    full = documents.document()
    full["front"][0]["label"] = LONG
    with terminal() as tty:
        print_result(full, tty.stream)
        text = without_codes(tty.seen)
    assert max(len(line) for line in text.splitlines()) <= columns
    assert "…" not in text
    letters = re.sub(r"\s", "", text)
    assert all(f"{name}_proj" in letters for name in ("down", "gate", "k", "o", "q", "up", "v"))
    if columns >= 80:
        assert "[0.580, 0.640]" in text
        assert "gate_proj+" in text


def test_the_plot_of_the_front_stands_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "against" not in printed(documents.document())
    seen = {}
    for columns in (79, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        with terminal() as tty:
            print_result(documents.document(), tty.stream)
            seen[columns] = without_codes(tty.seen)
    assert "against" not in seen[79]
    plot = seen[80][seen[80].index("validation accuracy against TPOT ratio") : seen[80].index("Recommended")]
    assert (plot.count("●"), plot.count("★"), plot.count("◆"), plot.count("·")) == (2 + 1, 1 + 1, 1 + 1, 1 + 1)


def test_the_default_across_tasks_is_marked_under_its_name_and_not_under_a_task() -> None:
    with terminal() as tty:
        print_comparison(documents.comparison(), tty.stream)
        lines = without_codes(tty.seen).splitlines()
    (marked,) = (at for at, line in enumerate(lines) if line.startswith("robust default"))
    assert lines[marked - 1].startswith("o_proj only r8 ")


@pytest.mark.parametrize("case", documents.ALL)
def test_every_document_prints_in_a_terminal_without_utf_8(case: str) -> None:
    with terminal("ascii") as tty:
        print_result(documents.ALL[case](), tty.stream)
        assert tty.seen.isascii()


def test_list() -> None:
    stream = io.StringIO()
    row = {"search": "demo", "status": "complete", "trials": {"complete": 5, "failed": 1}, "budget": 24, "front": 3}
    print_list([{**row, "metric": "rouge_l", "best": 0.61}, {"search": "new"}], stream)
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines[2] == ["demo", "complete", "6/24", "3", "ROUGE-L", "0.610", "-", "-", "-"]
    assert lines[3] == ["new", "-", "0/-", "-", "-", "-", "-", "-"]


def test_list_of_nothing_says_how_to_start() -> None:
    stream = io.StringIO()
    print_list([], stream)
    assert stream.getvalue() == "No search yet: python -m search run starts one.\n"


def test_modules() -> None:
    stream = io.StringIO()
    group = {
        "name": "o_proj",
        "layers": 5,
        "parameters_per_rank": 640,
        "role": "output",
        "kind": "Linear",
        "share": 0.123,
    }
    print_modules(
        {
            "model": "models/tiny",
            "type": "llama",
            "groups": [group],
            "left_out": [{"name": "lm_head", "why": "output head"}],
            "references": [{"name": "o+down", "targets": ["down_proj", "o_proj"], "parameters": 12800}],
            "rank": 8,
        },
        stream,
    )
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["o_proj", "output", "Linear", "5", "640", "12.3%"] in lines
    assert ["lm_head", "output", "head"] in lines
    assert ["o+down", "down_proj+o_proj", "12,800"] in lines
    assert ["reference", "placement", "targets", "parameters", "at", "r8"] in lines


def latency_document() -> dict[str, Any]:
    times = {"ttft_p50_ms": 9.6, "tpot_p50_ms": 4.3, "tpot_p95_ms": 4.6, "tpot_p99_ms": 4.8}
    figures = {**times, "ratio": 1.1, "ratio_ci": [1.08, 1.12], "concurrency": 1, "rank": 8}
    guess = {"ratio": 1.2, "ratio_ci": [1.1, 1.3], "concurrency": 1, "rank": 8, "source": "predicted"}
    drift = {"ratio": 1.0, "ratio_ci": [0.99, 1.01], "settled": True, "concurrency": 1}
    check = {"class": "down_proj+o_proj r8", "predicted": 1.2, "predicted_ci": [1.1, 1.3], "measured": 1.25}
    base = {"ttft_p50_ms": 9.0, "tpot_p50_ms": 3.9, "tpot_p95_ms": 4.1, "tpot_p99_ms": 4.2}
    return {
        "model": "models/tiny",
        "engine": "vllm",
        "device": "cpu",
        "unmerged": "it costs",
        "base": base,
        "bases": [{**base, "concurrency": 1}],
        "drift": drift,
        "drifts": [drift],
        "modes": [{"mode": "mixed", "adapters": 4, "ratio": 1.5, "ratio_ci": [1.4, 1.6], "concurrency": 1}],
        "predictions": {"median_error": 0.04, "checks": [{**check, "error": 0.04}]},
        "profiles": [
            {**figures, "targets": ["q_proj"], "class": "qkv r8", "source": "measured", "settled": False},
            {**figures, "targets": ["o_proj"], "class": "o_proj r8", "source": "measured", "cached": True},
            {**guess, "targets": ["down_proj", "o_proj"], "class": "down_proj+o_proj r8"},
        ],
        "notes": ["all groups are not mixed"],
    }


def test_latency() -> None:
    stream = io.StringIO()
    print_latency(latency_document(), stream)
    text = stream.getvalue()
    lines = [line.split() for line in text.splitlines()]
    assert ["base", "model", "9.00", "3.90", "4.10", "4.20", "1.000"] in lines
    figures = ["9.60", "4.30", "4.60", "4.80", "1.100", "[1.080,", "1.120]"]
    assert ["q_proj", "r8", "qkv", "r8", *figures, "measured,", "out", "of", "time"] in lines
    assert ["o_proj", "r8", "-", *figures, "measured,", "kept", "from", "before"] in lines
    assert "The base model against itself: 1.000 [0.990, 1.010]." in text
    assert "Predicted: 1 more placement (ratio 1.200), which --json has." in text
    assert "Check of down_proj+o_proj r8: predicted 1.200 [1.100, 1.300], measured 1.250, 4.0% off." in text
    assert "All groups, 4 adapters mixed: 1.500 [1.400, 1.600]." in text
    assert "Unmerged, on this engine: it costs." in text
    assert "An encoder" not in text
    assert text.endswith("note: all groups are not mixed\n")


def test_latency_of_several_concurrencies_names_them() -> None:
    document = latency_document()
    document["profiles"].append({**document["profiles"][0], "concurrency": 8})
    document["bases"].append({**document["base"], "tpot_p50_ms": 7.9, "concurrency": 8})
    checks = document["predictions"]["checks"]
    checks[:] = [{**checks[0], "concurrency": concurrency} for concurrency in (1, 8)]
    stream = io.StringIO()
    print_latency(document, stream)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    shown = [line.partition(" at once")[0] for line in lines if line.startswith(("base model", "q_proj", "o_proj"))]
    assert shown == ["base model, 1", "q_proj r8, 1", "o_proj r8, 1", "base model, 8", "q_proj r8, 8"]
    assert "base model, 8 at once 9.00 7.90 4.10 4.20 1.000" in lines
    assert [line.partition(":")[0] for line in lines if line.startswith("Check")] == [
        "Check of down_proj+o_proj r8, 1 at once",
        "Check of down_proj+o_proj r8, 8 at once",
    ]
    assert "q_proj r8, 1 at once" in stream.getvalue()
    assert "q_proj r8, 8 at once" in stream.getvalue()
    assert "The base model against itself with 1 at once: 1.000 [0.990, 1.010]." in stream.getvalue()


def test_what_the_ratios_of_an_encoder_are_of_is_said() -> None:
    document = latency_document()
    document["profiles"] = [{**row, "axis": "ttft"} for row in document["profiles"]]
    stream = io.StringIO()
    print_latency(document, stream)
    said = "An encoder has no TPOT: a ratio is of the time of one pass, which stands under TTFT."
    assert said in stream.getvalue()


def test_a_search_is_imported_without_torch_so_that_ray_can_start_beside_it() -> None:
    code = "import sys, search.run, search.several; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_importing_it_stays_light() -> None:
    code = (
        "import sys, search.terminal, search.progress; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "pandas", "numpy", "mlflow", "plotly", "jinja2", "ray", "optuna"} & set(loaded)

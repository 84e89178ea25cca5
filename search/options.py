"""Options that several commands share, in groups, and what they ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from objectives.errors import RequestError
from search.config import read_config
from search.names import ENGINES, METRIC_CHOICES, STOPS, STRATEGIES, TASKS
from search.spec import SearchSpec, with_absolute_paths

Command = TypeVar("Command", bound=Callable[..., Any])
_DEFAULTS = SearchSpec()


class _Given(click.types.StringParamType):
    """A path or address, ``~`` being the user's folder: shells leave that of ``--out=~/x`` alone, and it would be a
    folder of that name here.

    An empty one, as of a variable of a script that is not set, would be the folder that the command runs in, or no
    ``--config`` at all.
    """

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if param is not None and not value.strip():
            remedy = "" if param.required else ", or leave the option out"
            raise RequestError(f"{param.opts[0]} is empty: give a value{remedy}")
        return os.path.expanduser(value)  # noqa: PTH111 - pathlib refuses an unknown ~user


GIVEN = _Given()


def group(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output, nothing else."
)
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
stores = group(
    click.option("--home", metavar="DIR", help="Folder of the state.  [default: $SEARCH_HOME or ./.search]"),
    click.option(
        "--storage",
        metavar="URL",
        help="SQLAlchemy URL of catalog and study.  [default: $SEARCH_STORAGE or SQLite in the home]",
    ),
    click.option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow tracking URI.  [default: $SEARCH_TRACKING_URI or SQLite in the home]",
    ),
    debug,
)
engine = group(
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        help="What serves: PEFT here, or --endpoint.  [default: transformers]",
    ),
    click.option("--endpoint", metavar="URL", help="OpenAI-compatible server, for --engine openai."),
)
trust_remote_code = click.option(
    "--trust-remote-code", is_flag=True, default=None, help="Let the model's own Python code run."
)
structure = group(
    click.option("--model", metavar="DIR|HUB_ID", help="Base model.  [default: the demonstration that ships along]"),
    click.option("--bands", type=int, help="Split every group into N bands of layers.  [default: 1]"),
    trust_remote_code,
)
question = group(
    structure,
    click.option(
        "--data",
        multiple=True,
        metavar="DIR|FILE|HUB_ID",
        help="Rows of text and label, or of prompt and completion. Several: a search each, and their comparison.  "
        "[default: the demonstration's]",
    ),
    click.option("--task", type=click.Choice(TASKS), help="[default: what the columns say]"),
    click.option("--metric", metavar="|".join(METRIC_CHOICES), help="[default: accuracy, or rouge_l for generation]"),
)
proposals = group(
    click.option("--budget", type=int, metavar="N", help=f"Placements to try.  [default: {_DEFAULTS.budget}]"),
    click.option(
        "--strategy",
        metavar="|".join(STRATEGIES),
        help="Who proposes placements; additive, as auto mostly is, stops trials on the way.  [default: auto]",
    ),
    click.option(
        "--stop-when",
        metavar="|".join(STOPS),
        help="settled, under additive: end when no trial is likely to raise the front by 2%.  [default: budget]",
    ),
    click.option("--series", metavar="NAME", help="Build on the earlier searches of this series; keep its champion."),
    click.option(
        "--keep",
        type=int,
        metavar="N",
        help="Remove all of the series but its newest N searches and the champion's, at the end.  [default: keep all]",
    ),
)
trials = group(
    click.option(
        "--max-hours",
        type=float,
        metavar="H",
        help="After H hours no trial begins or goes on, except for a first result. Several --data share them.",
    ),
    click.option(
        "--retries", type=int, metavar="N", help="Run a trial up to N times more if its process dies.  [default: 2]"
    ),
    click.option(
        "--checkpoint-seconds", type=float, metavar="S", help="Save a training every S seconds.  [default: 30]"
    ),
    click.option(
        "--steps",
        type=int,
        metavar="N",
        help="Training steps of a trial.  [default: 200; generation: 300; the demonstration: 80]",
    ),
    click.option("--ranks", metavar="R,R", help="LoRA ranks to try.  [default: 4,8,16]"),
    click.option(
        "--groups",
        metavar="NAME,NAME",
        help="Search among these module groups, as `modules` names them.  [default: all of them]",
    ),
    click.option(
        "--baseline",
        metavar="PLACEMENT",
        help="What you target today, as 'q_proj+v_proj r8': trained first, to its end, and compared with.",
    ),
    click.option("--alpha", metavar="N|Nr", help="LoRA's alpha: for all ranks N, or N times the rank.  [default: 2r]"),
    engine,
    click.option("--max-tpot-ratio", type=float, metavar="X", help="Train nothing slower than X times the base model."),
    click.option("--max-adapter-mb", type=float, metavar="Y", help="Try no adapter larger than Y MB in float32."),
    click.option(
        "--workers",
        type=int,
        metavar="N",
        help="Trials side by side.  [default: one per core, or per GPU, of this machine]",
    ),
    click.option(
        "--gpus-per-trial",
        type=float,
        metavar="F",
        help="GPUs, or a fraction of one.  [default: 1 if this machine has one]",
    ),
    click.option(
        "--pack",
        type=int,
        metavar="N",
        help="Trials that a worker trains at once, in one pass of the base.  [default: 8 on a GPU, else 1]",
    ),
    click.option(
        "--ray-address",
        metavar="A",
        envvar="SEARCH_RAY_ADDRESS",
        help="Join this Ray cluster; its machines must share --adapters.  [default: $SEARCH_RAY_ADDRESS, or Ray here]",
    ),
    click.option(
        "--adapters",
        metavar="DIR|s3://…",
        envvar="SEARCH_ADAPTERS",
        help="Where adapters and checkpoints go; keys are the AWS_* of the environment.  "
        "[default: $SEARCH_ADAPTERS, or the home]",
    ),
    click.option("--batch-size", type=int, metavar="N", help="Rows of a training step.  [default: 16]"),
    click.option("--accumulate", type=int, metavar="N", help="Batches whose gradients make one step.  [default: 1]"),
    click.option("--learning-rate", type=float, metavar="LR", help="Peak of AdamW.  [default: from the model's width]"),
    click.option(
        "--label-weight",
        type=float,
        metavar="W",
        help="Weight of the choice among labels beside their likelihood, to train a causal model.  [default: 4]",
    ),
    click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory, more time."),
    click.option("--max-tokens", type=int, metavar="N", help="Cut longer rows, and count them.  [default: 512]"),
    click.option(
        "--template",
        metavar="TEXT",
        help="Of a causal model: 'chat', or text with {text}.  [default: chat if it has one]",
    ),
    click.option(
        "--validation-rows", type=int, metavar="N", help="Sample of the split.  [default: 500; generation: 64]"
    ),
    click.option("--test-rows", type=int, metavar="N", help="Sample of the split.  [default: 2000; generation: 200]"),
    click.option("--seed", type=int, metavar="N", help="Of samples, splits and proposals.  [default: 0]"),
    click.option(
        "--training-seed",
        type=int,
        metavar="N",
        help="Of adapters and batches.  [default: --seed; in a series another one each time]",
    ),
    click.option("--name", metavar="NAME", help="Of the search; a prefix of several.  [default: from model and data]"),
    click.option("--config", type=GIVEN, metavar="FILE", help="YAML of the same settings; flags win over it."),
)
request = group(question, proposals, trials)
latency_protocol = group(
    engine,
    click.option("--prompt-tokens", type=int, default=32, show_default=True, metavar="N", help="Length of a prompt."),
    click.option("--output-tokens", type=int, default=17, show_default=True, metavar="N", help="Length of an answer."),
    click.option(
        "--concurrency",
        default="1",
        show_default=True,
        metavar="C,C",
        help="Requests at once; each is measured.",
    ),
    click.option("--graphs", is_flag=True, help="Decode with static cache and CUDA graphs, as servers do; GPU only."),
    click.option(
        "--half-width",
        type=float,
        default=0.02,
        show_default=True,
        metavar="F",
        help="Measure until the ratio is known to this share.",
    ),
    click.option(
        "--max-seconds",
        type=float,
        default=0.6,
        show_default=True,
        metavar="S",
        help="Measure one placement this long at most.",
    ),
    click.option("--fresh", is_flag=True, help="Measure also what the catalog has from before."),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="Of random adapters, and prompts in this process.",
    ),
)


def asked_for(config: str | None, data: Sequence[str], flags: dict[str, Any]) -> list[SearchSpec]:
    """One request for each data set, equal in all else; ``data`` replaces the file's. Raises RequestError."""
    settings = read_config(Path(config)) if config else {}
    in_file = settings.pop("data", [])
    settings |= {name: value for name, value in flags.items() if value is not None}
    each = [{"data": source} for source in data or ([in_file] if isinstance(in_file, str) else in_file)] or [{}]
    return [SearchSpec.from_json(with_absolute_paths(settings | source)) for source in each]

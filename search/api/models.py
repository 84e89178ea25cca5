"""What goes in and comes out, as OpenAPI describes it; documents are those of ``show`` and ``list`` (``--json``)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from objectives.placement import ALPHA
from search.names import ENGINES, METRIC_CHOICES, STOPS, STRATEGIES, TASKS
from search.outside import NAME
from search.spec import LARGEST_SEED, MOST

Count = Annotated[int, Field(ge=1, le=MOST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _choice(values: tuple[str, ...], description: str) -> Any:
    return Field(None, json_schema_extra={"enum": [*values, None]}, description=description)


class SearchRequest(BaseModel):
    """The settings of `python -m search run`; what is left out has the same defaults.

    What concerns the machine instead of the search is the server's alone: its home, databases, Ray cluster, where
    adapters go, and whether code of a model may run. Hub ids are refused, since they would make the server download
    what a client names.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "tickets",
                    "model": "/srv/models/llama",
                    "data": "/srv/data/tickets",
                    "budget": 24,
                    "ranks": [8],
                }
            ]
        },
    )

    name: str | None = Field(None, pattern=f"^{NAME}$", description="Of the search. Default: made of model and data.")
    model: str | None = Field(
        None, max_length=4096, description="Folder under an allowed root. Default: the model that ships along."
    )
    data: str | None = Field(
        None, max_length=4096, description="Folder or file under an allowed root. Default: the demonstration."
    )
    task: str | None = _choice(TASKS, "Default: what the columns say.")
    metric: str | None = _choice(METRIC_CHOICES, "Default: accuracy, or rouge_l for generation.")
    budget: Count | None = Field(None, description="Placements to try. Default: 40.")
    max_hours: Positive | None = Field(
        None, description="Hours, after which no trial begins or goes on, but for a first result."
    )
    steps: Count | None = Field(None, description="Training steps of a trial.")
    ranks: list[Count] | None = Field(None, min_length=1, max_length=16, description="LoRA ranks. Default: 4, 8, 16.")
    alpha: str | None = Field(
        None, pattern=f"^({ALPHA})$", description="LoRA's alpha for all ranks, or as in '2r' per rank. Default: 2r."
    )
    bands: Count | None = Field(None, description="Split every group into so many bands of layers.")
    groups: list[Annotated[str, Field(pattern=r"[^\s+,]", max_length=512)]] | None = Field(
        None, min_length=1, max_length=1024, description="Search among these module groups. Default: all of them."
    )
    baseline: str | None = Field(
        None,
        pattern=r"\S",
        max_length=10_000,
        description="What is targeted today, as 'q_proj+v_proj r8': trained first, to its end, and compared with.",
    )
    strategy: str | None = _choice(STRATEGIES, "Who proposes placements. Default: auto.")
    stop_when: str | None = _choice(STOPS, "What ends a search. Default: budget.")
    engine: str | None = _choice(ENGINES, "What serves while latency is measured. Default: transformers.")
    endpoint: str | None = Field(None, max_length=2048, description="For the engine openai: an allowed server's URL.")
    max_tpot_ratio: float | None = Field(
        None, ge=1, allow_inf_nan=False, description="Train nothing slower than so many times the base model."
    )
    max_adapter_mb: Positive | None = Field(None, description="Try no adapter larger than so many MB in float32.")
    workers: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="Trials side by side.")
    gpus_per_trial: float | None = Field(None, ge=0, le=1024, allow_inf_nan=False, description="GPUs, or a fraction.")
    pack: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Trials that a worker trains at once, in one pass of the base. Default: 8 on a GPU, else 1."
    )
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    batch_size: Count | None = None
    accumulate: Count | None = None
    learning_rate: Positive | None = None
    label_weight: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the choice among labels beside their likelihood, to train a causal model. Default: 4.",
    )
    gradient_checkpointing: bool | None = None
    max_tokens: int | None = Field(None, ge=8, le=MOST)
    template: str | None = Field(None, max_length=10_000, description="'chat', or text with {text}.")
    validation_rows: int | None = Field(None, ge=2, le=MOST)
    test_rows: int | None = Field(None, ge=2, le=MOST)


class ResumeRequest(BaseModel):
    """As `python -m search resume`: to the search's own budget, or to a larger one."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"budget": 60}]})

    budget: Count | None = None
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_hours: Positive | None = Field(None, description="As when it was submitted, from now on.")


class Submission(BaseModel):
    """What the server was asked to run. `error` is the program's sentence where `status` is failed."""

    name: str
    kind: Literal["run", "resume"]
    status: Literal["queued", "running", "ended", "failed", "canceled"]
    error: str | None
    settings: dict[str, Any]
    token: str = Field(description="The name of the token that asked.")
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Open(BaseModel):
    """Has more members than are listed."""

    model_config = ConfigDict(extra="allow")


class SearchRow(Open):
    search: str
    status: str
    trials: dict[str, int]
    budget: int
    front: int = Field(description="How many placements are on the front.")
    metric: str
    best: float | None
    model: str
    data: str
    started: str


class Front(BaseModel):
    """The placements that no other beats on both accuracy and latency, the fastest first."""

    search: str
    status: str
    front: list[dict[str, Any]]
    recommended: dict[str, Any] | None
    knee: dict[str, Any] | None
    hypervolume: float


class Result(Open):
    """The document of `python -m search show NAME --json`."""

    search: str
    status: Literal["running", "complete", "interrupted", "failed"]
    reason: str | None
    model: str
    data: str
    task: str
    metric: str
    budget: int
    trials: dict[str, int]
    steps: dict[str, int]
    base: dict[str, Any]
    front: list[dict[str, Any]]
    recommended: dict[str, Any] | None
    knee: dict[str, Any] | None
    hypervolume: float
    elapsed_s: float
    points: list[dict[str, Any]]
    notes: list[str]


class Problem(BaseModel):
    """Why a request was turned down: one sentence with the value, the cause and the remedy."""

    detail: str = Field(examples=["no search is named 'tickets': known are 'demo'."])


class Health(BaseModel):
    status: Literal["ok"]

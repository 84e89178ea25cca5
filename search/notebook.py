"""A search as a Python object, for notebooks and scripts: what the command line gives, without the command line."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from search.home import home_of, opened, read_home
from search.spec import SearchSpec, with_absolute_paths


class Search:
    """One search in a home. Its document is that of ``python -m search show --json``, read when first asked for.

    Every method raises :class:`objectives.errors.SearchError` with one sentence where the request cannot be met.
    """

    def __init__(
        self, name: str, *, home: str | Path | None = None, storage: str | None = None, tracking_uri: str | None = None
    ) -> None:
        """The search ``name``, which exists. ``home``, ``storage`` and ``tracking_uri`` are as on the command line, and
        so are the variables of the environment that stand for them."""
        self.name = name
        self.home = read_home(_text(home), storage, tracking_uri)
        with self._opened():
            pass

    @classmethod
    def run(
        cls,
        spec: SearchSpec,
        *,
        home: str | Path | None = None,
        storage: str | None = None,
        tracking_uri: str | None = None,
    ) -> Search:
        """Search to the end, with progress on standard error; after an interrupt :meth:`resume` continues."""
        from dataclasses import asdict

        from search.run import start

        absolute = SearchSpec(**with_absolute_paths(asdict(spec)))
        document = start(absolute, home_of(_text(home), storage, tracking_uri))
        return cls(document["search"], home=home, storage=storage, tracking_uri=tracking_uri)

    def resume(
        self,
        *,
        budget: int | None = None,
        workers: int | None = None,
        max_hours: float | None = None,
        ray_address: str | None = None,
    ) -> Search:
        """Continue to the budget, or to a new one; returns this search with what was found."""
        from search.run import resume

        try:
            resume(self.name, self.home, budget=budget, workers=workers, max_hours=max_hours, ray_address=ray_address)
        finally:  # what was found until an interrupt is found, too
            self.__dict__.pop("document", None)
        return self

    @cached_property
    def document(self) -> dict[str, Any]:
        """Plain values, as ``show --json`` prints them: see ``docs/json.md``."""
        from search.result import result_document

        with self._opened() as (catalog, search):
            return result_document(catalog, search)

    @property
    def front(self) -> list[dict[str, Any]]:
        """The members of the front from the fastest to the slowest; each has targets, rank, accuracy, tpot_ratio."""
        from dashboards.words import ordered_front

        return ordered_front(self.document)

    def picked(self, pick: str = "recommended") -> dict[str, Any]:
        """The trial that ``pick`` names: recommended, knee, best, or trial=N."""
        from search.picked import picked

        trial = picked(self.document, pick)
        return next(point for point in self.document["points"] if point["trial"] == trial)

    def lora_config(self, pick: str = "recommended") -> Any:
        """A new ``peft.LoraConfig`` of the picked placement, to train it with another trainer."""
        from peft import LoraConfig

        from search.picked import picked_adapter

        with (
            self._opened() as (catalog, search),
            picked_adapter(catalog, search, self.document, pick) as (_, folder),
        ):
            config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = False
        return config

    def export(self, out: str | Path, pick: str = "recommended") -> dict[str, Any]:
        """Copy the picked adapter into a new folder that PEFT loads, and return its manifest."""
        from search.export import export_adapter

        with self._opened() as (catalog, search):
            return export_adapter(catalog, search, pick, Path(out))

    def figure(self) -> Any:
        """The front as a plotly ``Figure``."""
        from dashboards.figures import front_figure

        return front_figure(self.document)

    def report(self, out: str | Path) -> Path:
        """Write the report page, and return its path."""
        from dashboards.report import report_page
        from search.output import write_page

        file = os.path.expanduser(out)  # noqa: PTH111 - pathlib refuses an unknown ~user
        write_page(report_page(self.document, self.home.flags()), file, quiet=True)
        return Path(file)

    def __repr__(self) -> str:
        from dashboards import words

        return f"Search({self.name!r}: {words.state(self.document)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the result in words, and the front."""
        from html import escape

        from dashboards import words
        from dashboards.against import against
        from dashboards.embedding import FIGURE_CSS, figure_html, plotly_library

        told = [words.outcome(self.document), words.recommendation(self.document), against(self.document)]
        text = "".join(f"<p>{escape(sentence)}</p>" for sentence in told if sentence)
        return f"{text}<style>{FIGURE_CSS}</style>{figure_html(self.figure(), full_page=False)}{plotly_library()}"

    def _opened(self) -> AbstractContextManager[tuple[Any, Any]]:
        # By full paths: a notebook may change its folder, or its environment.
        return opened(self.name, str(self.home.folder), self.home.storage, self.home.tracking)


def _text(folder: str | Path | None) -> str | None:
    return None if folder is None else str(folder)

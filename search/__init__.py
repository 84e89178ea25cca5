"""Which modules should a LoRA adapter target? Specification, study, catalog, tracking and the command line.

For notebooks and scripts: ``from search import Search, SearchSpec``.
"""

from __future__ import annotations

from search.notebook import Search
from search.spec import SearchSpec

__all__ = ["Search", "SearchSpec"]

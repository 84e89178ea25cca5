from __future__ import annotations

import pytest

from objectives.tabular import Table
from tests.benchmarks.made import write_table


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return Table(write_table(tmp_path_factory.mktemp("tables") / "made.parquet"))

"""What a search prepares beyond its request."""

from __future__ import annotations

import pytest

from search.prepare import threads_for


@pytest.mark.parametrize(
    ("limit", "workers", "threads"),
    [(None, 2, 4), (None, 3, 2), (None, 16, 1), ("1", 1, 1), ("3", 2, 3), ("64", 2, 4), ("2,1", 1, 2), ("many", 2, 4)],
)
def test_a_worker_has_its_share_of_the_cores_within_the_users_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, workers: int, threads: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert threads_for(workers) == threads

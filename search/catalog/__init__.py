"""The catalog: searches, trials and latency profiles, and the outbox that feeds MLflow; the truth, in one database."""

from __future__ import annotations

from search.catalog.records import OutboxRecord, SearchRecord, TrialRecord
from search.catalog.store import Catalog

__all__ = ["Catalog", "OutboxRecord", "SearchRecord", "TrialRecord"]

"""Serving latency of placements: how it is measured, modelled and predicted, on several engines."""

from __future__ import annotations

from objectives.latency.settings import LatencySettings

__all__ = ["LatencySettings"]

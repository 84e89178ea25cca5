"""Serving latency of placements: how it is measured, modelled and predicted, for several engines."""

from __future__ import annotations

from objectives.latency.paired import LatencySettings, measure_pair, profile_context

__all__ = ["LatencySettings", "measure_pair", "profile_context"]

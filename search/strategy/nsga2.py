"""Optuna's NSGA-II, which proposes from the trials alone."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial


def population(budget: int) -> int:
    """Trials of one generation: a third of a small budget, since in the first one chance alone proposes."""
    return max(4, min(50, budget // 3))


class NSGAIISampler(optuna.samplers.NSGAIISampler):
    """As Optuna's, but parents stand in the order of their trials.

    Optuna has them by rank when it selects them and by number when it reads them again, and children follow from the
    order: the first one after a resume was another than if the search had not ended.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)

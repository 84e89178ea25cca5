"""Choices that the command line offers; here, since the modules that implement them are slow to import."""

from __future__ import annotations

STRATEGIES = ("auto", "additive", "tpe", "nsga2", "gp", "random", "grid")
METRIC_CHOICES = ("accuracy", "exact_match", "token_f1", "rouge_l", "bleu")
ENGINES = ("transformers", "openai")
TASKS = ("classification", "generation")
PICKS = "recommended, knee, best or trial=N"

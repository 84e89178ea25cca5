"""Choices that the command line offers; here, since the modules that implement them are slow to import."""

from __future__ import annotations

#: The program under the name that pip gives it, beside ``python -m search``.
INSTALLED = "target-search"
#: What ends a search: that no further trial is likely to raise the front much, or the budget alone.
STOPS = ("settled", "budget")
STRATEGIES = ("auto", "additive", "tpe", "nsga2", "gp", "random", "grid")
METRIC_CHOICES = ("accuracy", "exact_match", "token_f1", "rouge_l", "bleu")
ENGINES = ("transformers", "openai")
TASKS = ("classification", "generation")
PICKS = "recommended, knee, best or trial=N"
#: Where there is nothing to show.
NO_SEARCH = "No search yet: python -m search run starts one."
#: Of a token of the API; each includes those before it.
SCOPES = ("read", "write")
#: For whom `recipe` writes.
TOOLS = ("peft", "trl", "llama-factory", "axolotl", "vllm")

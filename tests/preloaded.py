"""What a search imports, imported in the environment in which it would: for processes that are forked from this one."""

# ruff: noqa: F401

import os

from cluster.session import _ALONE, _QUIET

os.environ |= _QUIET | _ALONE | {"HF_HUB_OFFLINE": "1"}

import mlflow
import optuna
import peft
import ray.tune
import transformers.models.llama.modeling_llama

import cluster.tune
import search.cli
import search.run

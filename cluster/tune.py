"""Run a plan to its end on Ray Tune."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.jobs import Plan
from cluster.session import drop_files, has_ended
from objectives.errors import SearchError
from objectives.workbench import Assignment


class _Over(BaseException):
    """The run is: no Exception, for which Tune would tidy up, and ask a Ray that has ended until that ends us too."""


@contextmanager
def _deaths_alike() -> Iterator[None]:
    """Within, Tune hears of every worker's death in the one way that it knows; at others it fails itself.

    Of a worker that Ray killed for want of memory comes the death, or that reason, by which news is faster.
    """
    from ray import exceptions
    from ray.air.execution._internal.actor_manager import RayActorManager

    others = (exceptions.OutOfMemoryError, exceptions.NodeDiedError, exceptions.WorkerCrashedError)
    known = RayActorManager._actor_task_failed

    def failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        is_death = isinstance(exception, others) and not isinstance(exception, exceptions.RayTaskError)
        told = exceptions.RayActorError(error_msg=str(exception)) if is_death else exception
        known(manager, tracked_actor_task, told)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = known


def run_plan(plan: Plan, assignment: Assignment, *, workers: int, gpus_per_worker: float) -> None:
    """Blocks until the plan is done. Raises what the plan raised, and KeyboardInterrupt.

    Needs a Ray session. Makes the storage of adapters, by which workers see that they share it. The assignment goes
    through the object store once; actors are kept from job to job.
    """
    import ray
    from ray import tune
    from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
    from ray.tune.execution import class_cache

    from cluster.searcher import PlanSearcher
    from cluster.worker import Worker

    searcher = PlanSearcher(plan, workers)

    class Watch(Callback):  # type: ignore[misc]  # Ray publishes no types
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            """Several times a second, also where nothing is heard of workers any more, as without Ray's GCS.

            Without it Tune would wait for trials that run, which may be for hours, before an error is said.
            """
            if searcher.error is not None or has_ended():
                raise _Over

    assignment.adapters.check(create=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Else Tune starts one worker after the other for a searcher that is not its own.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)
    # Tune would send the driver's keys of S3 along, and Ray write them to the logs of every node: each has its own.
    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }
    resources = {"cpu": 1, "gpu": gpus_per_worker} if gpus_per_worker else {"cpu": 1}
    with tempfile.TemporaryDirectory(prefix="target-search-") as scratch:
        tuner = Tuner(
            tune.with_resources(tune.with_parameters(Worker, assignment=assignment), resources),
            tune_config=TuneConfig(
                search_alg=searcher, scheduler=searcher.scheduler, num_samples=-1, reuse_actors=True
            ),
            run_config=RunConfig(
                name=Path(scratch).name,
                storage_path=scratch,  # Tune insists on writing a state; ours is in the catalog
                verbose=0,
                failure_config=FailureConfig(max_failures=0),
                callbacks=[Watch()],
            ),
        )
        try:
            with _deaths_alike():
                tuner.fit()
        except _Over:
            searcher.error = searcher.error or SearchError(
                "Ray on this machine has ended: a process of it was killed, or memory ran out; nothing is lost: resume "
                "the search"
            )
        finally:
            drop_files(Path(scratch).name)
    if has_ended():
        ray.shutdown()  # else it ends this process, before the reason is written and said
    if searcher.error is not None:
        raise searcher.error

"""At how many steps a trial may stop, and by what its course until then is known."""

from __future__ import annotations

from collections.abc import Sequence

from objectives.training import LOSS_EVERY

#: Shares of all steps after which a trial is weighed anew; the last is the whole training.
_SHARES = (0.125, 0.25, 0.5)


def rungs(steps: int) -> tuple[int, ...]:
    """Steps at which a trial of ``steps`` may stop, the last of them ``steps``.

    Whole entries of the training losses, at least two, so that a training that goes on later has the entries of one in
    one go. Where these are more than a quarter of the training none stops: there is too little to save.
    """
    early = sorted({int(share * steps) // LOSS_EVERY * LOSS_EVERY for share in _SHARES})
    early = [step for step in early if step >= 2 * LOSS_EVERY]
    return (*early, steps) if early and early[0] <= steps / 4 else (steps,)


def course(losses: Sequence[tuple[int, float]], final: float | None, steps: int) -> tuple[float, ...]:
    """The losses by which a trial is compared with others, one for each of its :func:`rungs` that it has reached.

    ``losses`` are (step, mean training loss since the entry before), ``final`` the validation loss after all steps. On
    the way it is the mean training loss so far: it costs nothing, and since all trials of a search see the same batches
    in the same order, what differs between two trials is the placement, not the luck of the batches. How fast a
    placement learns at first tells more than where it then is, so the first steps count as well.
    """
    *early, _ = rungs(steps)
    reached = losses[-1][0] if losses else 0
    found: list[float] = []
    for rung in early:
        if rung > reached:
            return tuple(found)
        so_far = [loss for step, loss in losses if step <= rung]
        found.append(sum(so_far) / len(so_far))
    return tuple(found) if final is None else (*found, final)

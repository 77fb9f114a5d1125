"""When a network on the plateau leaves it: how it is said, and guessed from curves."""

import math
from typing import NamedTuple

import numpy as np

# Spread at which differences between examples begin to feed their own growth: networks
# with more than this leave the plateau sooner than their past growth tells.
READY_TO_LEAVE = 2e-4
# The true remaining time over what that growth says, four networks in five: measured at
# epochs 2 to 16 on 145 looks at 56 networks that leave within 36. Growth is not even.
EXTRAPOLATED = (0.6, 7.0)


class Forecast(NamedTuple):
    """The epoch in which a network leaves the plateau, by ``plateau``; inf if late.

    ``earliest`` and ``latest`` hold four networks in five.
    """

    epoch: float
    earliest: float
    latest: float

    def __str__(self) -> str:
        if np.isinf(self.epoch):
            return "not in sight"
        # An epoch that has begun has the number of its end.
        epoch, earliest, latest = (math.ceil(number) for number in self)
        return f"in epoch {epoch} ({earliest} to {latest})"


def extrapolated(spread: np.ndarray) -> float:
    """Epochs until a spread is ``READY_TO_LEAVE``, at the growth of its second half.

    Args:
        spread: (T + 1,) as for ``diagnosis.diagnose``.

    Returns:
        0 if it is already, inf if it does not grow.
    """
    num_epochs = len(spread) - 1
    back = max(1, num_epochs // 2)
    now, before = float(spread[-1]), float(spread[-1 - back])
    if np.isnan(now):
        return np.nan
    if now >= READY_TO_LEAVE:
        return 0.0
    if not 0 < before < now:
        return np.inf
    growth = np.log(now / before) / back
    return float(np.log(READY_TO_LEAVE / now) / growth)

"""What a training run is, as pure functions that a user may bring.

A ``Recipe`` names them; a *point* gives values to what they leave open, such as a
learning rate. Who takes which value is read from the functions' signatures.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optax

from snn_jax import losses
from snn_jax.gradients import ValueAndGrad
from snn_jax.losses import Loss
from snn_jax.networks import Params

# params -> array, or params -> {name: array}.
Observation = Callable[[Params], Any]


@dataclass(frozen=True)
class Recipe:
    """What one training run is, as pure functions.

    Attributes:
        network: anything with ``init(key, **point)`` and ``apply(params, x)``, such as
            ``networks.MLP`` or ``networks.Network``. In a sweep also a function of axes
            that gives one: ``lambda depth: MLP(...)``.
        loss: ``loss(outputs, y) -> (B,)``, for training and evaluation.
        optimizer: an ``optax.GradientTransformation``, or what makes one from the
            values of a point: ``optax.sgd``, a lambda, a partial, a class.
        value_and_grad: ``(params, x, y) -> (loss, grads)``, in JAX or NumPy; by default
            the gradient of the loss, by hand where the package has it.
        num_epochs: T passes over the training set; 0 looks at untrained networks.
        batch_size: B, from 1, true stochastic gradient descent, to the whole set.
        looks_per_epoch: an epoch is cut into so many equal parts, after each of which
            networks are looked at.
        own_batches: whether every seed has a shuffle of its own; by default all
            networks see the same batches in the same order, which is much faster.
        observe: what to look at besides loss and accuracy, by name: functions of the
            parameters, which are cast to float64 for it. Small arrays that they close
            over become part of the program.
    """

    network: Any
    loss: Loss = losses.nll
    optimizer: Any = optax.sgd
    value_and_grad: ValueAndGrad | None = None
    num_epochs: int = 8
    batch_size: int = 32
    looks_per_epoch: int = 1
    own_batches: bool = False
    observe: Mapping[str, Observation] = field(default_factory=dict)

    @property
    def num_looks(self) -> int:
        """At a network in training, the initial one not counted."""
        return self.num_epochs * self.looks_per_epoch


def takes(function: Any) -> tuple[frozenset[str], bool]:
    """Names of the arguments that a function takes, and whether it takes any other."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none
        return frozenset(), False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (
        frozenset(p.name for p in parameters if p.kind in named),
        any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
    )


def given(function: Any, point: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a point that a function takes, by name; all if it takes any.

    >>> given(lambda key, scale=1.0: None, {"scale": 0.1, "learning_rate": 0.3})
    {'scale': 0.1}
    """
    names, any_name = takes(function)
    return {k: value for k, value in point.items() if any_name or k in names}


def transformation(
    optimizer: Any, point: Mapping[str, Any]
) -> optax.GradientTransformation:
    """An optimizer at a point: as it is, or made from the values that it takes.

    Raises:
        ValueError: it takes a value that the point has not.

    >>> transformation(optax.adam, {"learning_rate": 0.01, "scale": 1.0}) is not None
    True
    >>> transformation(lambda rate: optax.sgd(rate), {"learning_rate": 0.01})
    Traceback (most recent call last):
    ValueError: optimizer: expected an axis for each value that it needs, found none \
for rate
    """
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        return optimizer
    found = given(optimizer, point)
    try:
        needed = inspect.signature(optimizer).parameters.values()
    except (TypeError, ValueError):
        needed = ()  # type: ignore[assignment]
    missing = [
        p.name
        for p in needed
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in found
    ]
    if missing:
        raise ValueError(
            "optimizer: expected an axis for each value that it needs, found none for "
            f"{', '.join(missing)}"
        )
    made: optax.GradientTransformation = optimizer(**found)
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise ValueError(
            f"optimizer: expected an optax transformation, found {type(made).__name__}"
        )
    return made

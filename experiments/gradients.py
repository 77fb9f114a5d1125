"""Are the gradients right? Four ways to compute them, side by side.

    python experiments/gradients.py            about 20 s

For the two networks of the assignment, at init scales from 0.01 to 10, every leaf of
the gradient by hand is compared with autodiff, with the complex step and with central
differences, in float64; and with autodiff on every image alone. Exits with 1 if two
ways disagree that should not.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line

if TYPE_CHECKING:
    from snn_jax.gradcheck import Check


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    scales: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Init scales: standard deviation of every initial weight and bias."""
    batch_size: int = 2
    """Images in the batch whose gradient is checked."""
    seed: int = 0
    """Of the initial weights."""
    data: command_line.DataPath = None

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_positive("--scales", self.scales, least=1e-6, most=1e3)
        command_line.expect_count("--batch-size", self.batch_size)
        command_line.expect_seed("--seed", self.seed)


def main(settings: Settings) -> int:
    """Prints the table; returns 1 on a disagreement."""
    import jax
    import numpy as np
    from tqdm import tqdm

    from snn_jax import backprop, gradcheck, gradients, networks

    train = command_line.load(settings.data, like_mnist=True)[0].train
    command_line.expect_batch_size(settings.batch_size, len(train.y))
    x, y = train.x[: settings.batch_size], train.y[: settings.batch_size]
    nets = {
        "SHALLOW 784-20-10, with biases": networks.SHALLOW,
        "DEEP 784-10-10-10-10-10-10, no biases": networks.DEEP,
    }

    lines: list[str] = []
    disagreements: list[str] = []
    blind: list[str] = []
    unknown: list[str] = []
    with tqdm(total=len(nets) * len(settings.scales), unit="check", leave=False) as bar:
        for name, network in nets.items():
            lines += ["", name, HEADER]
            by_hand = backprop.value_and_grad(network)
            loss = gradients.mean_loss(network)
            init = jax.jit(network.init)
            for scale in settings.scales:
                params = init(
                    jax.random.key(settings.seed), scale=scale, bias_scale=scale
                )
                checks = gradcheck.check(by_hand, params, x, y, loss=loss)
                examples = gradcheck.check_examples(by_hand, params, x, y, loss=loss)
                for check in checks:
                    worst = float(np.max(examples[check.leaf]))
                    most = max(gradcheck.AUTODIFF_TOLERANCE, check.rounding)
                    agrees = check.agrees and worst <= most
                    place = f"{check.leaf} at scale {scale:g}"
                    if not agrees:
                        disagreements.append(f"{name.split()[0]} {place}")
                    if check.is_blind:
                        unknown.append(f"{name.split()[0]} {place}")
                    if check.central_is_blind:
                        blind.append(f"{name.split()[0]} {place}")
                    lines.append(row(scale, check, worst, agrees))
                bar.update()
    print("\n".join(lines[1:]))
    print("\n" + words(disagreements, blind, unknown))
    return 1 if disagreements else 0


HEADER = (
    f"{'init scale':>10} {'leaf':>4} {'norm':>8} {'autodiff':>9} {'per image':>9} "
    f"{'complex step':>12} {'central diff.':>13} {'its rounding':>12}  verdict"
)


def row(scale: float, check: "Check", worst_example: float, agrees: bool) -> str:
    """One leaf: its norm and the relative errors of its gradient by hand."""
    verdict = "agree" if agrees else "DISAGREE"
    if agrees and check.central_is_blind:
        verdict = "agree (blind)"
    complex_step = "left out"
    if check.complex_step is not None:
        complex_step = f"{check.complex_step:.0e}"
    return (
        f"{scale:>10g} {check.leaf:>4} {check.norm:>8.1e} {check.autodiff:>9.0e} "
        f"{worst_example:>9.0e} {complex_step:>12} {check.central:>13.0e} "
        f"{check.central_floor:>12.0e}  {verdict}"
    )


def words(disagreements: list[str], blind: list[str], unknown: list[str]) -> str:
    """What the table says."""
    text = [
        "Numbers are relative errors |g - h| / (|g| + |h|) of the gradient by hand, "
        "leaf by leaf."
    ]
    if blind:
        text.append(
            f"Central differences are blind in {len(blind)} leaves (first: "
            f"{blind[0]}).\n"
            "They subtract two losses of about 2 nats that are known to 16 digits, and "
            "divide by 2e-5:\na gradient below about 1e-11 a weight drowns in rounding "
            "(the column 'its rounding').\nThe complex step does not subtract them."
        )
    if unknown:
        text.append(
            f"{len(unknown)} leaves cannot be checked at all (first: {unknown[0]}): "
            "the loss of the images that\nmove them is so small that rounding is all "
            "there is to see. They count as agreeing."
        )
    if disagreements:
        text.append("DISAGREEMENT in " + ", ".join(disagreements) + ".")
    else:
        text.append(
            "All ways that can see a leaf agree on it: the gradients are right."
        )
    return "\n".join(text)


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

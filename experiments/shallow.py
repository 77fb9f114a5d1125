"""The assignment's first network: 784-20-10, sigmoid, softmax, negative log-likelihood.

    python experiments/shallow.py --gradient manual          about 8 s: 95.6 %

Trains it on MNIST with stochastic gradient descent, with the gradients derived by hand
or by autodiff: the curves are the same. Biases start at 0, weights at N(0, 0.1^2).
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line

INIT_SCALE = 0.1


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    gradient: Literal["autodiff", "manual"] = "manual"
    """By jax.value_and_grad or by the equations of snn_jax/backprop.py."""
    epochs: int = 20
    """Passes over the training set."""
    learning_rate: float = 0.3
    """Of plain stochastic gradient descent."""
    batch_size: int = 32
    """Images a step; 1 is true stochastic gradient descent."""
    seed: int = 0
    """Of the initial weights and of the order of the images."""
    data: command_line.DataPath = None
    out: Path = Path("runs/shallow")
    """Folder for the result."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_count("--epochs", self.epochs)
        command_line.expect_positive("--learning-rate", [self.learning_rate])
        command_line.expect_count("--batch-size", self.batch_size)
        command_line.expect_seed("--seed", self.seed)


def main(settings: Settings) -> int:
    """Trains, saves and prints the learning curve."""
    command_line.make_folder(settings.out)
    import jax
    from tqdm import tqdm

    from snn_jax import backprop, datasets, files, gradients
    from snn_jax.networks import SHALLOW
    from snn_jax.recipe import Recipe
    from snn_jax.sweep import sweep

    data, said = command_line.load(settings.data)
    command_line.expect_batch_size(settings.batch_size, len(data.train.y))
    by_hand = settings.gradient == "manual"
    gradient_of = backprop.value_and_grad if by_hand else gradients.by_autodiff
    ends = (data.train.x.shape[1], datasets.num_classes(data))
    network = replace(SHALLOW, sizes=(ends[0], *SHALLOW.sizes[1:-1], ends[1]))
    recipe = Recipe(
        network,
        value_and_grad=gradient_of(network),
        num_epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    axes = {"scale": [INIT_SCALE], "learning_rate": [settings.learning_rate]}
    key = jax.random.key(settings.seed)
    with tqdm(total=settings.epochs, desc="training", unit="epoch") as bar:
        result = sweep(key, data, recipe, axes, report=bar.update)
    made_with = asdict(settings) | {"commit": command_line.commit()}
    made_with["what was read"] = said
    files.save(settings.out, result, made_with)

    one = result.isel(scale=0, learning_rate=0, seed=0)
    print(
        f"{'epoch':>5} {'train loss':>11} {'valid. loss':>12} {'valid. accuracy':>16}"
    )
    for epoch in one.epoch.values:
        row = one.sel(epoch=epoch)
        train_loss = f"{float(row.train_loss):.4f}" if epoch else "-"
        print(
            f"{epoch:>5} {train_loss:>11} {float(row.valid_loss):>12.4f} "
            f"{100 * float(row.valid_accuracy):>14.2f} %"
        )
    how = "derived by hand" if by_hand else "by automatic differentiation"
    print(f"\ngradient: {how}")
    print(
        "Losses in nats; a network that knows nothing pays "
        f"{float(result.plateau_loss):.3f}. Saved in {settings.out}."
    )
    print(f"test accuracy: {100 * float(one.test_accuracy):.2f} %")
    return 0


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

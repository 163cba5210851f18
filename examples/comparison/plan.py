"""What the user chose, and which trials that needs."""

import math
from typing import NamedTuple

from comparison.trials import Trial

REFERENCE_MODELS = ("logistic_regression", "dense", "lenet5")  # small enough to be trained many times
AMOUNTS = (100, 300, 1000, 3000, 10000, 30000, 100000)


class Plan(NamedTuple):
    """What the user chose.

    Attributes:
        models: names for the table.
        experiments: names of `EXPERIMENTS`.
        epochs, minutes: the table's budget for each model, one of them None.
        experiment_epochs: the experiments' budget.
        seeds: how many seeds an experiment uses.
        reference_models: names of the models that the experiments train, each many times.
        ordered: whether the table's split is the lab's.
        batch_size: images per step.
        divergence_steps: how many steps each run of the divergence experiment has.
        train: how many images there are to train on.
    """

    models: tuple
    experiments: tuple
    epochs: int | None
    minutes: float | None
    experiment_epochs: int
    seeds: int
    reference_models: tuple
    ordered: bool
    batch_size: int
    divergence_steps: int
    train: int

    def table_trial(self, model):
        return Trial("table", model, None if self.minutes else self.epochs, self.minutes, ordered=self.ordered)

    def trial(self, model, seed, **variant):
        return Trial("experiments", model, variant.pop("epochs", self.experiment_epochs), seed=seed, **variant)

    def amounts(self):
        """Sizes of training sets that are smaller than the complete one."""
        return [amount for amount in AMOUNTS if amount < 0.7 * self.train]

    def amount_trial(self, model, seed, amount):
        """Few images, and so many epochs that the number of steps is about the same as with all images."""
        steps = self.experiment_epochs * math.ceil(self.train / self.batch_size)
        epochs = round(steps / math.ceil(amount / self.batch_size))
        return self.trial(model, seed, images=amount, epochs=epochs)

    def seeded(self, results):
        """The reference models that were trained on the table's split with several seeds."""
        if self.seeds == 1 or self.ordered:
            return []
        return [model for model in self.reference_models if self.trial(model, 0).name in results]

    def over_seeds(self, results, model, key="test_accuracy", **variant):
        """A list of one number for each seed."""
        return [results[self.trial(model, seed, **variant).name][key] for seed in range(self.seeds)]

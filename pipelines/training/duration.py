"""The length of a training in steps and epochs."""

from dataclasses import dataclass

from pipelines.training.config import TrainingConfig


@dataclass(frozen=True)
class Duration:
    """The length of a training.

    epoch_steps: steps of a whole epoch. steps: of the whole training; if they are no multiple of
    `epoch_steps`, the last epoch is shorter than the others.
    """

    epoch_steps: int
    steps: int

    @staticmethod
    def of(config: TrainingConfig, images: int) -> "Duration":
        """Return the length of a training. images: of the training split."""
        epoch_steps = -(-images // config.batch)
        if config.steps is not None:
            return Duration(epoch_steps, config.steps)
        assert config.epochs is not None
        return Duration(epoch_steps, config.epochs * epoch_steps)

    @property
    def epochs(self) -> int:
        """Number of epochs, including a shorter last one."""
        return -(-self.steps // self.epoch_steps)

    @property
    def last_epoch(self) -> float:
        """The length of the last epoch, as a fraction of a whole one."""
        return self.steps_in(self.epochs - 1) / self.epoch_steps

    def steps_before(self, epoch: int) -> int:
        """Return the number of steps before `epoch`, counted from 0."""
        return min(epoch * self.epoch_steps, self.steps)

    def steps_in(self, epoch: int) -> int:
        """Return the number of steps of `epoch`, counted from 0."""
        return self.steps_before(epoch + 1) - self.steps_before(epoch)

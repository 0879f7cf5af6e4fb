"""A GAN, by manual optimization: the losses of the drawn samples are handed over.

The discriminator is called twice in a step, on drawn and on generated samples, and `training_step` returns nothing. So
the module says itself what the losses of the drawn samples are, in one line: those that the discriminator is in
doubt of are drawn more often. There are no classes: one bin.

Run it by `python examples/gan.py`. The changed lines end in `# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, hand_over  # adaptive sampling


def network(inputs: int, outputs: int) -> nn.Module:
    """A small network."""
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
    )


class GAN(LightningModule):
    """An ordinary GAN of points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = network(4, 2), network(2, 1)

    def training_step(self, batch, batch_idx):
        (real,) = batch
        of_generator, of_discriminator = self.optimizers()
        fake = self.generator(torch.randn(len(real), 4, device=self.device))

        of_real = softplus(-self.discriminator(real)).squeeze(1)
        of_fake = softplus(self.discriminator(fake.detach())).squeeze(1)
        hand_over(self, losses=of_real)  # adaptive sampling
        of_discriminator.zero_grad()
        self.manual_backward(of_real.mean() + of_fake.mean())
        of_discriminator.step()

        of_generator.zero_grad()
        self.manual_backward(softplus(-self.discriminator(fake)).mean())
        of_generator.step()
        self.log("train/real", of_real.mean())

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 1e-3, (0.5, 0.9)) for part in (self.generator, self.discriminator)]


def main() -> None:
    """Train on points on a circle, few of which are on its right half."""
    seed_everything(0)
    angles = torch.rand(4000) * 3.14 + torch.where(torch.rand(4000) < 0.9, 1.57, -1.57)
    points = torch.stack([angles.cos(), angles.sin()], 1) + 0.05 * torch.randn(4000, 2)
    train_loader = AdaptiveDataLoader(TensorDataset(points), batch_size=128, bins=None)  # adaptive sampling
    plugin = AdaptiveSamplingCallback()  # adaptive sampling
    trainer = Trainer(
        max_epochs=20,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    model = GAN()
    trainer.fit(model, train_loader)
    radius = model.generator(torch.randn(1000, 4)).norm(dim=1).mean()
    print(f"trained; radius {radius:.2f} of generated points, {points.norm(dim=1).mean():.2f} of real ones")


if __name__ == "__main__":
    main()

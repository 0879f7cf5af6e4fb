"""Graph classification with torch_geometric, whose batches are objects.

The bins are the classes, the `y` of each graph. Our loader puts graphs together as torch_geometric's
own does, and the targets are the `y` of a batch.

Run it by `python examples/graphs.py`, after `pip install ".[examples]"`. The changed lines end in
`# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, global_add_pool
from torch_geometric.utils import to_undirected

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling

KINDS = ["tree", "ring", "rewired ring"]


class GraphClassifier(LightningModule):
    """An ordinary module on batches of graphs."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 32), (32, 32), (32, 32)]
        self.convolutions = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b))) for a, b in sizes
        )
        self.head = nn.Linear(32, len(KINDS))

    def forward(self, batch):
        x = batch.x
        for convolution in self.convolutions:
            x = convolution(x, batch.edge_index).relu()
        return self.head(global_add_pool(x, batch.batch) / 10)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch), batch.y)

    def validation_step(self, batch, batch_idx):
        right = self(batch).argmax(1) == batch.y
        self.log("val/accuracy", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def graphs(count: int, shares: list[float]) -> list[Data]:
    """Trees, rings, and rings with two chords, of 8 to 16 nodes each."""
    result = []
    for y in torch.multinomial(torch.tensor(shares), count, replacement=True):
        size = int(torch.randint(8, 17, ()))
        nodes = torch.arange(1, size)
        edges = torch.stack([nodes, (torch.rand(size - 1) * nodes).long() if y == 0 else nodes - 1])
        if y > 0:
            edges = torch.cat([edges, torch.tensor([[0], [size - 1]])], 1)
        if y == 2:
            edges = torch.cat([edges, torch.randint(size, (2, 2))], 1)
        result.append(Data(x=torch.ones(size, 1), edge_index=to_undirected(edges), y=y.view(1)))
    return result


def main() -> None:
    """Train on an imbalanced set, validate on a balanced one."""
    seed_everything(0)
    train_loader = AdaptiveDataLoader(graphs(600, [0.7, 0.2, 0.1]), batch_size=32)  # adaptive sampling
    val_loader = DataLoader(graphs(150, [1.0, 1.0, 1.0]), batch_size=75)
    plugin = AdaptiveSamplingCallback(logits_from="head")  # adaptive sampling
    trainer = Trainer(
        max_epochs=5,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(GraphClassifier(), train_loader, val_loader)
    print(f"trained; val accuracy {trainer.callback_metrics['val/accuracy']:.2f}")


if __name__ == "__main__":
    main()

"""A small recurrent network that predicts the next loss of an instance from its last losses and its bin.

The last 10 losses go through two stacked LSTMs of 32 units; what comes out after the last one, beside an embedding of
the bin in 32 numbers, goes through a linear layer to one number. Adam makes one step per trained batch on the squared
error. Source: the `LSTMSampler` of Katharopoulos and Fleuret's library for "Biased Importance Sampling for Deep Neural
Network Training" (2017), whose class is our bin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lightning_as.core.bins import Bins
from lightning_as.core.state import require
from lightning_as.core.tree_in_bins import last_occurrence

HISTORY = 10
_WIDTH = 32
_LARGEST = 1e6  # of a loss: its square, and the square of that in Adam's memory, stay inside float32


class _Network(nn.Module):
    """Losses in the order they came, (B, L), how many of them there are, (B,), and bins, (B,) to predictions, (B,)."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(1, _WIDTH, num_layers=2, batch_first=True, device="cpu", dtype=torch.float32)
        self.embedding = nn.Embedding(bins, _WIDTH, device="cpu", dtype=torch.float32)
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05)  # as in Keras: at first the bins hardly differ
        self.linear = nn.Linear(2 * _WIDTH, 1, device="cpu", dtype=torch.float32)

    def forward(self, losses: Tensor, counts: Tensor, bins: Tensor) -> Tensor:
        outputs, _ = self.recurrent(losses.unsqueeze(2))
        last = outputs[torch.arange(len(counts), device="cpu"), counts - 1]
        return self.linear(torch.cat([last, self.embedding(bins)], dim=1)).squeeze(1)


class LossPredictor:
    """The network, its optimizer, and the last losses of every instance: at first a single 1, as in the source.

    It works in float32 on the CPU, and touches no global random state.

    Args:
        bins: The partition.
        seed: Seed of the network's initial parameters. Default: 0.
    """

    def __init__(self, bins: Bins, seed: int = 0) -> None:
        self.bins = bins
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed the GPUs, too
            self._network = _Network(len(bins.sizes))
            self._optimizer = torch.optim.Adam(self._network.parameters(), lr=1e-3)
            for parameter in self._network.parameters():  # as Adam does it, which asks torch for its default device
                step = torch.zeros((), dtype=torch.float32, device="cpu")
                first, second = (torch.zeros_like(parameter.detach()) for _ in range(2))
                self._optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        self._losses = torch.zeros(len(bins), HISTORY, dtype=torch.float32, device="cpu")
        self._losses[:, 0] = 1.0
        self._counts = torch.ones(len(bins), dtype=torch.uint8, device="cpu")
        self._seen = torch.zeros(len(bins), dtype=torch.bool, device="cpu")
        self.error = 0.0
        """Root mean squared error of the predictions for the last batch, before its step; 0 before the first."""

    @property
    def seen(self) -> int:
        """Number of instances that have had a loss."""
        return int(self._seen.sum())

    def predict(self, indices: Tensor) -> Tensor:
        """The predicted losses of instances, (B,) float64; they may be negative."""
        with torch.no_grad():
            return self._predict(indices).to(torch.float64)

    def learn(self, indices: Tensor, losses: Tensor) -> None:
        """Make a step on a batch, and enter its losses, (B,), into the memory. Of duplicates the last counts there."""
        if not len(indices):
            return
        # The caller may be in inference mode, of which autograd can use no tensor.
        with torch.inference_mode(False), torch.enable_grad():
            indices, targets = indices.clone(), losses.clone().to(torch.float32).clamp_(max=_LARGEST)
            error = mse_loss(self._predict(indices), targets)
            self._optimizer.zero_grad()
            error.backward()
            self._optimizer.step()
        self.error = float(error.detach().sqrt())
        self._remember(indices, targets)

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and numbers; copies."""
        return {
            "network": {name: part.clone() for name, part in self._network.state_dict().items()},
            "moments": [
                {name: part.clone() for name, part in self._optimizer.state[parameter].items()}
                for parameter in self._network.parameters()
            ],
            "losses": self._losses.clone(),
            "counts": self._counts.clone(),
            "seen": self._seen.clone(),
            "error": self.error,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many instances and bins."""
        counts = state["counts"]
        require((counts >= 1).all() & (counts <= HISTORY).all(), f"`counts` are not from 1 to {HISTORY}")
        self._network.load_state_dict(state["network"])
        groups = self._optimizer.state_dict()["param_groups"]
        moments = {
            number: {name: value.clone() for name, value in part.items()}  # which the optimizer changes in place
            for number, part in enumerate(state["moments"])
        }
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._losses = state["losses"].clone()
        self._counts = state["counts"].clone()
        self._seen = state["seen"].clone()
        self.error = state["error"]

    def _predict(self, indices: Tensor) -> Tensor:
        counts = self._counts.index_select(0, indices).long()
        losses = self._losses.index_select(0, indices)[:, : int(counts.max())]  # the rest nobody has yet
        return self._network(losses, counts, self.bins.of(indices))

    def _remember(self, indices: Tensor, losses: Tensor) -> None:
        losses = losses.index_select(0, last_occurrence(indices))
        counts = self._counts.index_select(0, indices).long()
        rows = self._losses.index_select(0, indices)
        full = counts == HISTORY
        rows[full] = rows[full].roll(-1, dims=1)
        counts[full] -= 1
        rows[torch.arange(len(counts), device="cpu"), counts] = losses
        # Duplicates write equal rows.
        self._losses.index_copy_(0, indices, rows)
        self._counts.index_copy_(0, indices, (counts + 1).to(torch.uint8))
        self._seen.index_fill_(0, indices, True)

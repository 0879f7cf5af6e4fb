"""Learned filter: a small policy, trained by reinforcement on a first run, decides what to keep of the next ones.

Candidates come from shuffled passes over the data and are scored by a forward pass. The policy keeps one with features
f with the probability π = σ(θ·f), where f has

* of the instance: its loss, cut off at 10; the predicted probability p_y of its class; the margin
  p_y − max_{c≠y} p_c; and with `labels` the class itself, as indicators;
* of the training: the share of its steps that is done, the mean loss of the trained batches so far, and the best
  `monitor` that validation has found so far;
* a constant, whose coefficient starts at 2, the others at 0: at first 88 % are kept, at random.

Each candidate in its order is kept (a = 1) or dropped (a = 0), until a batch is kept; this one is trained on. If too
few are kept, those of the dropped that had the largest π fill the batch up, where the source would wait for more, since
a training step of Lightning has its number of instances at any rate. When validation first finds `target_accuracy`,
after i of T steps, the episode is over, and with its reward −log(i/T) the policy moves by REINFORCE,

    θ ← θ + η · reward · Σ ∇_θ log P(a | f),    ∇_θ log P(a | f) = (a − π) f,

the sum going over all decisions up to there; those about candidates that come after the batch is full are none. A
target that is never reached has the reward 0, and θ stays. One run is one episode: give the policy that a run leaves to
the next run, as `policy`, and in the end with ``train_policy=False`` to the one that matters.

Source: Fan, Tian, Qin, Bian and Liu, "Learning What Data to Learn" (2017, arXiv:1702.08635), the Neural Data Filter
with REINFORCE.

Cost per step: Beside the training `presample` forward passes of the batch, whose logits are in memory, and are worked
on in blocks; O(candidates) for the policy; 12 bytes of memory per instance.

Verified: The abstract, and a summary that gives the decision process, logistic policies and their update. NOT verified,
as the body was not read: the reward's formula, the list of features and their scaling, the 2, the actor-critic form and
a baseline for the reward, which are left out, the step size, and the results. The forward pass that the source saves is
not saved. As the distribution of what is trained on is not known, draws keep the uniform probabilities of their
candidates, and weights that go by them are refused. With several processes each chooses from its own share, so that
another number of them chooses otherwise. A fit that is resumed from a checkpoint between the last batch of an epoch and
its validation never hears of that: Lightning does not make up for it.

When to use it: Many similar trainings, of which the first ones may pay for a policy.

When not: A single training: it is uniform sampling then, with twice the forward passes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.arguments import check_integer, check_positive
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.passes import Candidates
from lightning_as.core.state import require
from lightning_as.strategies.batch_selector import BatchSelector, Selection
from lightning_as.strategies.scores import Scores

_LARGEST_LOSS = 10.0  # of the features
_FIRST_CONSTANT = 2.0
_BLOCK = 2**20  # logits that are worked on at a time
_REMEDY = "name what `save_policy` wrote, or a checkpoint of a run with LearnedFilter."
_FEATURES = ("loss", "probability", "margin", "progress", "mean_loss", "best", "constant")


class LearnedFilter(BatchSelector):
    """Candidates kept or dropped by a policy that learns from how soon training reaches an accuracy.

    Args:
        policy: What :meth:`save_policy` has written, or a checkpoint of a Lightning run with this strategy. Default: a
            new policy.
        train_policy: Whether this run is an episode to learn from. Default: True.
        target_accuracy: τ, what `monitor` must reach. Default: 0.98, this package's.
        monitor: Name under which the module logs its validation accuracy. Default: ``"val/accuracy"``.
        presample: Batches of candidates for each batch that is trained on, at least 2. Default: 2, this
            package's.
        learning_rate: η. Default: 1e-3, this package's.
        labels: Whether the bins are features, which are the classes as a rule. Default: False.

    Raises:
        TypeError: If `presample` is not an integer.
        ValueError: If an option is out of its range, or there is no policy to use; if `policy` has other features;
            before training, if there is no end in sight; after validation, if `monitor` was not logged.
        FileNotFoundError: If there is no file `policy`.
    """

    reads = frozenset({"losses", "logits"})

    def __init__(
        self,
        policy: str | None = None,
        train_policy: bool = True,
        target_accuracy: float = 0.98,
        monitor: str = "val/accuracy",
        presample: int = 2,
        learning_rate: float = 1e-3,
        labels: bool = False,
    ) -> None:
        check_integer("presample", presample, least=2, unit="batches")
        if policy is None and not train_policy:
            raise ValueError("`train_policy=False` needs a `policy`: name the file that a first run has left.")
        check_positive("learning_rate", learning_rate)
        if not 0 < target_accuracy <= 1:
            raise ValueError(f"`target_accuracy` must be in (0, 1], got {target_accuracy}.")
        self.policy = policy
        self.train_policy = train_policy
        self.target_accuracy = target_accuracy
        self.monitor = monitor
        self.presample = presample
        self.learning_rate = learning_rate
        self.labels = labels
        self._given = None if policy is None else _load_policy(policy)

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._candidates = Candidates(bins)
        size = len(_FEATURES) + self.labels * len(bins.sizes)
        if self._given is None:
            self._theta = torch.zeros(size, dtype=torch.float64, device="cpu")
            self._theta[_FEATURES.index("constant")] = _FIRST_CONSTANT
        elif self._given.shape != (size,):
            raise ValueError(
                f"`policy={self.policy!r}` has {self._given.numel()} coefficients, but there are {size} features: use "
                f"the bins and the `labels` (here {self.labels}) that it was trained with."
            )
        else:
            self._theta = self._given.clone()
        self._begin()

    def schedule(self) -> tuple[str, str] | None:
        return "LearnedFilter", "use another strategy"

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        if self.progress.epoch == 0:
            self._begin()

    def _begin(self) -> None:
        """A new episode, with the policy that the last one has left."""
        self._gradient = torch.zeros_like(self._theta)  # Σ ∇ log P(a | f) of the episode
        self._learning = self.train_policy
        self._steps = 0
        self._loss_sum = 0.0
        self._loss_count = 0
        self._best = 0.0
        self._reward: float | None = None
        self._kept = 1.0  # mean π of the last candidates

    @property
    def _total_steps(self) -> int:
        """T, the steps of the training."""
        return max(self.progress.total or 1, 1)

    @property
    def theta(self) -> Tensor:
        """θ, the coefficients of loss, probability, margin, progress, mean loss, best, constant, and bins: (F,)."""
        return self._theta.clone()

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return self._candidates.draw(size * self.presample, generator)

    @torch.inference_mode()
    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        features = self.features(draw, scores)
        keep = (features @ self._theta).sigmoid()
        kept = torch.rand(len(keep), dtype=torch.float64, generator=generator, device="cpu") < keep
        positions = kept.nonzero()[:size, 0]
        decided = int(positions[-1]) + 1 if len(positions) == size else len(keep)
        if self._learning:
            surprise = kept[:decided].to(torch.float64) - keep[:decided]
            self._gradient = self._gradient + surprise @ features[:decided]
        if len(positions) < size:
            dropped = (~kept).nonzero()[:, 0]
            nearest = keep[dropped].argsort(descending=True, stable=True)[: size - len(positions)]
            positions = torch.cat([positions, dropped[nearest]])
        self._kept = float(keep.mean())
        return Selection(positions)

    def features(self, draw: Draw, scores: Scores) -> Tensor:
        """The features f of each candidate, (M, F) float64."""
        assert scores.losses is not None, "`reads` asks for them"
        assert scores.logits is not None, "`reads` asks for them"
        losses = self._known(scores.losses.to(torch.float64))
        probability, margin = self._probability_and_margin(draw, losses, scores.logits)
        of_training = [
            self._steps / self._total_steps,
            max(-_LARGEST_LOSS, min(_LARGEST_LOSS, self._loss_sum / max(self._loss_count, 1))),
            self._best,
            1.0,
        ]
        columns = [losses.clamp(-_LARGEST_LOSS, _LARGEST_LOSS), probability, margin]
        columns += [torch.full_like(losses, value) for value in of_training]
        features = torch.stack(columns, dim=1)
        if self.labels:
            classes = torch.nn.functional.one_hot(draw.bins, len(self.bins.sizes))
            features = torch.cat([features, classes.to(torch.float64)], dim=1)
        return features

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self._steps += 1
        if len(losses):
            self._loss_sum += float(losses.mean())
            self._loss_count += 1

    def validated(self, metrics: dict[str, float]) -> None:
        """Note the accuracy; at the target the episode is over, and the policy moves."""
        if self.monitor not in metrics:
            raise ValueError(
                f"`monitor={self.monitor!r}` is not among what was logged, {', '.join(sorted(metrics)) or 'nothing'}: "
                "name the validation accuracy, or log one in `validation_step`."
            )
        accuracy = metrics[self.monitor]
        if accuracy > self._best:  # which NaN is not
            self._best = accuracy
        if self._learning and accuracy >= self.target_accuracy:
            steps = torch.tensor(max(self._steps, 1), dtype=torch.float64, device="cpu")
            self._reward = float(-torch.log(steps / self._total_steps))
            self._theta = self._theta + self.learning_rate * self._reward * self._gradient
            self._learning = False

    def save_policy(self, path: str | Path) -> None:
        """Write θ to a file, for the `policy` of another run."""
        torch.save({"policy": self._theta.clone()}, path)

    def metrics(self) -> dict[str, float]:
        """Mean π of the last candidates; best accuracy so far; the reward, once there is one."""
        figures = {"keep_probability": self._kept, "best": self._best}
        return figures if self._reward is None else figures | {"reward": self._reward}

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self._theta.clone(),
            "gradient": self._gradient.clone(),
            "learning": self._learning,
            "steps": self._steps,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
            "best": self._best,
            "reward": self._reward,
            "kept": self._kept,
            "candidates": self._candidates.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._theta, self._gradient = state["policy"].clone(), state["gradient"].clone()
        self._learning = state["learning"]
        self._steps, self._best = state["steps"], state["best"]
        self._loss_sum, self._loss_count = state["loss_sum"], state["loss_count"]
        reward = state["reward"]
        require(reward is None or (isinstance(reward, float) and math.isfinite(reward)), f"`reward` is {reward}")
        self._reward, self._kept = state["reward"], state["kept"]
        self._candidates.load_state_dict(state["candidates"])

    def _probability_and_margin(self, draw: Draw, losses: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """p_y and p_y − max_{c≠y} p_c, (M,) each; by the loss where the classes are not known."""
        likelihood = torch.exp(-losses).clamp_(max=1.0)
        if logits.dim() != 2 or logits.shape[1] < 2:
            return likelihood, 2 * likelihood - 1
        labels = self.bins.labels
        is_class = labels is not None and int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]
        truths = labels.to(torch.int64)[draw.bins] if labels is not None and is_class else None
        own, largest = torch.empty_like(likelihood), torch.empty_like(likelihood)
        for at in torch.arange(len(logits), device="cpu").split(max(1, _BLOCK // logits.shape[1])):
            p = logits[at].to(torch.float64).softmax(1).nan_to_num_(0.0)
            if truths is None:
                truth = (p - likelihood[at].unsqueeze(1)).abs_().argmin(1, keepdim=True)
            else:
                truth = truths[at].unsqueeze(1)
            own[at] = p.gather(1, truth)[:, 0]
            largest[at] = p.scatter_(1, truth, -1.0).amax(1)
        return own, own - largest


def _load_policy(path: str) -> Tensor:
    """θ out of a file of :meth:`LearnedFilter.save_policy`, or of a Lightning checkpoint."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"`policy={path!r}` is no file: {_REMEDY}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: the unpickler takes the bytes of other files for its instructions
        raise ValueError(f"`policy={path!r}` is no file of `torch.save`: {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`policy={path!r}` has a {type(content).__name__}, not a dict with a policy: {_REMEDY}")
    found = [content]
    for state in content.get("callbacks", {}).values():
        if isinstance(state, dict) and "sampler" in state:
            found.append(state["sampler"]["strategy_state"])
    policies = [part["policy"] for part in found if isinstance(part.get("policy"), Tensor)]
    if not policies:
        raise ValueError(f"`policy={path!r}` has no policy: {_REMEDY}")
    return policies[-1].to(torch.float64)

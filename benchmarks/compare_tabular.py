"""Whether sampling pays on `examples/tabular.py`, an ordinary module and loaders of its own, by `compare`.

python benchmarks/compare_tabular.py [--seeds 0 1 2 3 4] [--out benchmarks/results/compare/tabular]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where the examples are

from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from examples.tabular import Scorer, as_dataset, payments
from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    ClosenessSampling,
    OnlineBatchSelection,
    compare,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "compare" / "tabular"))
    options = parser.parse_args()
    seed_everything(0)
    train, val = as_dataset(payments(20_000)), as_dataset(payments(5_000))
    found = compare(
        module=lambda: Scorer(8),
        data=lambda: (AdaptiveDataLoader(train, batch_size=256), DataLoader(val, batch_size=1000)),
        trainer={
            "max_epochs": 5,
            "accelerator": "cpu",
            "callbacks": [AdaptiveSamplingCallback(logits_from="net", per_sample_loss="criterion")],
        },
        strategies=[ClosenessSampling(), AdaptiveSampling(), OnlineBatchSelection()],
        seeds=options.seeds,
        out=options.out,
    )
    print(found.table(), *found.notes, found.verdict, sep="\n\n")


if __name__ == "__main__":
    main()

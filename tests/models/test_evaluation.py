import torch
from torch import nn

from lightning_as import ConvNetClassifier
from lightning_as.models.evaluation import evaluate, evaluate_each


def test_it_is_the_mean_over_instances_in_float64_and_evaluation_mode():
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.9))
    module[2].eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.randn(3, 4, generator=generator) * 20)
    inputs, targets = torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    batches = [(inputs[:40], targets[:40]), (inputs[40:], targets[40:])]
    running = module[1].running_mean.clone()  # pyright: ignore
    found = evaluate(module, batches)
    with torch.no_grad():
        logits = module[0](inputs).div((1 + module[1].eps) ** 0.5).double()  # pyright: ignore
    exact = logits.logsumexp(1) - logits[torch.arange(50), targets]
    torch.testing.assert_close(found.cost, float(exact.mean()), rtol=1e-5, atol=0)
    assert found.accuracy == float((logits.argmax(1) == targets).double().mean())
    assert [part.training for part in module] == [True, True, False]
    assert torch.equal(module[1].running_mean, running)  # pyright: ignore


def test_it_resolves_losses_that_float32_rounds_to_zero():
    class Sure(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[30.0, 0.0]]).expand(len(inputs), 2)

    cost = evaluate(Sure(), [(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))]).cost
    torch.testing.assert_close(cost, 9.357622968839299e-14, rtol=1e-2, atol=0)


def test_it_leaves_the_classifier_as_it_was():
    module = ConvNetClassifier()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    evaluate(module, [(torch.rand(5, 1, 28, 28), torch.zeros(5, dtype=torch.int64))])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training


def test_each_instance_in_the_order_of_the_batches_with_its_gradient():
    generator = torch.Generator().manual_seed(0)
    module = nn.Linear(4, 3)
    inputs, targets = torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    found = evaluate_each(module, [(inputs[:40], targets[:40]), (inputs[40:], targets[40:])])
    logits = module(inputs).detach().double().requires_grad_()
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    losses.sum().backward()
    torch.testing.assert_close(found.losses, losses.detach())
    torch.testing.assert_close(found.gradients, logits.grad)
    whole = evaluate(module, [(inputs, targets)])
    right = (logits.argmax(1) == targets).double()
    assert (whole.cost, whole.accuracy) == (float(found.losses.mean()), float(right.mean()))
    assert module.training


def test_gradients_of_sure_predictions_keep_their_digits():
    logits = torch.tensor([[40.0, 0.0]])
    found = evaluate_each(nn.Identity(), [(logits, torch.tensor([0]))])
    expected = torch.tensor([[-1.0, 1.0]], dtype=torch.float64) * 4.248354255291589e-18
    torch.testing.assert_close(found.gradients, expected, rtol=1e-12, atol=0)

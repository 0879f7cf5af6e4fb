import torch
from torch import nn

from lightning_as.models.evaluation import evaluate, evaluate_each
from tests.helpers.statistics import double, seeded


def test_it_is_of_each_instance_in_float64_and_evaluation_mode_and_leaves_the_module_as_it_was():
    generator = seeded()
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.9))
    module[2].eval()
    nn.init.normal_(module[0].weight, std=20, generator=generator)
    inputs, targets = torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    batches = [(inputs[:40], targets[:40]), (inputs[40:], targets[40:])]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found, each = evaluate(module, batches), evaluate_each(module, batches)
    assert [part.training for part in module] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():  # of the same batches, since float32 rounds by the batch
        logits = torch.cat([module[0](x) for x, _ in batches]).div((1 + module[1].eps) ** 0.5).double()
    losses = nn.functional.cross_entropy(logits.requires_grad_(), targets, reduction="none")
    (gradients,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(each.losses, losses.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(each.gradients, gradients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.cost, float(each.losses.mean()), rtol=1e-14, atol=0)
    assert found.accuracy == float((logits.argmax(1) == targets).double().mean())


def test_sure_predictions_keep_the_digits_that_float32_rounds_away():
    batches = [(torch.tensor([[30.0, 0.0]]), torch.tensor([0]))]
    torch.testing.assert_close(evaluate(nn.Identity(), batches).cost, 9.357622968839299e-14, rtol=1e-2, atol=0)
    found = evaluate_each(nn.Identity(), [(torch.tensor([[40.0, 0.0]]), torch.tensor([0]))])
    expected = double(-1.0, 1.0) * 4.248354255291589e-18
    torch.testing.assert_close(found.gradients[0], expected, rtol=1e-12, atol=0)

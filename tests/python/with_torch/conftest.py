import pytest


@pytest.fixture(autouse=True)
def seeded(request):
    """Every test starts from the same numbers, its own, wherever it runs; a failure shows the seed."""
    import torch

    seed = sum(request.node.name.encode())
    torch.manual_seed(seed)
    print(f"torch.manual_seed({seed})")
    yield
    torch._dynamo.reset()

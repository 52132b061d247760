"""How GPUs compute is set by one function, and stays as it was set for the process that trains next."""

import os

import pytest
import torch
from torch import nn

from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.methods import METHODS
from mm_balance.seeding import set_numerics
from mm_balance.testing import tiny_stage


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    set_numerics(torch.device("cpu"), deterministic=False)


def test_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    set_numerics(torch.device("cuda"), deterministic=False)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_deterministic_kernels_on_a_gpu_and_nothing_left_of_them_afterwards():
    torch.backends.cudnn.benchmark = True
    set_numerics(torch.device("cuda"), deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    for device, wanted in (("cuda", False), ("cpu", True)):  # a CPU needs none of it
        set_numerics(torch.device(device), deterministic=wanted)
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.deterministic


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_runs_on_a_gpu_end_with_the_same_bits():
    def weights():
        stage = tiny_stage(METHODS["concat_unimodal"])
        stage.device = torch.device("cuda")
        set_numerics(stage.device, deterministic=True)
        stage.model.to(stage.device)
        loop.fit(stage, loop.Progress(), ListRecorder(), lambda: False)
        return [value.cpu() for value in stage.model.state_dict().values()]

    assert all(torch.equal(one, other) for one, other in zip(weights(), weights(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_float32_product_has_float32_s_error():
    set_numerics(torch.device("cuda"), deterministic=False)
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(4, 64, 32, 32, generator=generator)
    layer = nn.Conv2d(64, 64, 3, bias=False)
    exact = layer.double()(picture.double())
    found = layer.float().cuda()(picture.cuda()).cpu().double()
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5  # TF32: about 1e-3

"""The pretend device itself: it says `cuda:0`, computes like the CPU, and raises where a card would fail or wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from pretend_steps import strict
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench.training import deterministic


def on_device(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).cuda()


def test_there_is_one_card() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 1
    assert torch.cuda.get_device_name() == "Pretend"
    assert torch.cuda.is_bf16_supported(including_emulation=False)
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total
    assert str(on_device(2).device) == "cuda:0"
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:1")


def test_a_process_that_hides_the_card_has_none() -> None:
    code = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count())"
    for visible, expected in (("0", "True 1"), ("", "False 0")):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert result.stdout.strip() == expected, result.stderr


def test_numbers_are_those_of_the_host() -> None:
    rows = on_device(3, 4)
    assert torch.equal((rows @ rows.T).cpu(), rows.cpu() @ rows.cpu().T)
    with pytest.raises(TypeError, match="cuda"):
        rows.numpy()


def test_views_share_their_numbers() -> None:
    for dtype in (torch.float32, torch.float16, torch.int64):
        table = torch.ones(4, 6, dtype=dtype, device="cuda")
        for view in (table[1], table.T[2], table.view(24)[:2], table.unfold(1, 3, 3)[3, 1], table.detach()[2:3, 5]):
            view.mul_(0)
        expected = [[0, 0, 0, 1, 1, 1], [0] * 6, [1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0]]
        assert table.tolist() == expected


def test_memory_is_counted() -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    numbers = torch.zeros(1000, device="cuda")
    squares = numbers * numbers
    assert torch.cuda.memory_allocated() - before == 8000
    del numbers, squares
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before >= 8000


WAITS: dict[str, Callable[[Tensor], object]] = {
    "a number": lambda rows: rows.sum().item(),
    "a truth": lambda rows: bool((rows > 0).all()),
    "a mask": lambda rows: rows[rows > 0],
    "nonzero": lambda rows: rows.nonzero(),
    "masked_select": lambda rows: rows.masked_select(rows > 0),
    "unique": lambda rows: rows.unique(),  # type: ignore[no-untyped-call]
    "equal": lambda rows: torch.equal(rows, rows),
    "bincount": lambda rows: torch.bincount(rows.long().abs().flatten()),
    "repeats": lambda rows: rows.repeat_interleave(torch.ones_like(rows[:, 0], dtype=torch.int64), 0),
    "an index of the CPU": lambda rows: rows[torch.tensor([0])],
    "a copy to the CPU": lambda rows: rows.cpu(),
    "a copy to unpinned memory": lambda rows: torch.empty(3, 4).copy_(rows, non_blocking=True),
    "a copy from the CPU": lambda rows: torch.ones(3).cuda(),
    "a copy from unpinned memory": lambda rows: torch.ones(3).to("cuda", non_blocking=True),
    "a copy that is rearranged": lambda rows: torch.ones(3, 4).pin_memory()[:, ::2].to("cuda", non_blocking=True),
    "a constant": lambda rows: torch.tensor(1.0, device="cuda"),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_raises_or_warns(name: str) -> None:
    rows = on_device(3, 4)
    WAITS[name](rows)
    try:
        torch.cuda.set_sync_debug_mode("error")
        with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
            WAITS[name](rows)
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning, match="called a synchronizing CUDA operation"):
            WAITS[name](rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_other_work_does_not_wait() -> None:
    with strict():
        rows = torch.ones(3, 4).pin_memory().to("cuda", non_blocking=True)
        rows[rows > 0] = 2.0  # filled by the mask
        rows.masked_fill_(rows > 3, 0.0)
        rows.repeat_interleave(torch.full((3,), 2, device="cuda"), 0, output_size=6)
        rows[:, torch.arange(2, device="cuda")] += 1
        copy = rows.to("cpu", non_blocking=True)
    assert copy.is_pinned()


def test_a_step_may_not_synchronise() -> None:
    torch.cuda.synchronize()
    with strict():
        with pytest.raises(RuntimeError, match="synchronize"):
            torch.cuda.synchronize()
        with strict(False):
            torch.cuda.Event().synchronize()  # type: ignore[no-untyped-call]


MIXTURES: dict[str, Callable[[Tensor], object]] = {
    "a sum": lambda rows: rows + torch.ones(3, 4),
    "a product": lambda rows: rows @ torch.ones(4, 2),
    "rows by index_select": lambda rows: rows.index_select(0, torch.tensor([0])),
    "an embedding": lambda rows: F.embedding(torch.tensor([0]), rows),
    "a list": lambda rows: torch.cat([rows, torch.ones(1, 4)]),
    "a scalar in a list": lambda rows: torch.stack([rows.sum(), torch.tensor(1.0)]),
    "in place": lambda rows: torch.ones(3, 4).add_(rows),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_tensors_of_two_devices_do_not_mix(name: str) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        MIXTURES[name](on_device(3, 4))


def test_a_number_of_the_cpu_mixes() -> None:
    rows = on_device(3, 4)
    assert torch.equal(rows + torch.tensor(1.0), rows + 1.0)


def test_the_device_draws_by_itself() -> None:
    torch.manual_seed(3)
    host_state = torch.get_rng_state()
    state = torch.cuda.get_rng_state()
    drawn = torch.rand(4, device="cuda")
    dropped = F.dropout(torch.ones(100, device="cuda"), 0.5)
    assert torch.equal(torch.get_rng_state(), host_state)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(4, device="cuda"), drawn)
    assert torch.equal(F.dropout(torch.ones(100, device="cuda"), 0.5), dropped)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4, device="cuda"), drawn)


def test_generators_belong_to_their_device() -> None:
    generator = torch.Generator("cuda").manual_seed(5)
    first = torch.randn(3, device="cuda", generator=generator)
    generator.manual_seed(5)
    assert torch.equal(torch.randn(3, device="cuda", generator=generator), first)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator"):
        torch.randn(3, generator=generator)


INDEX = torch.zeros(3, 4, dtype=torch.int64, device="cuda")
UNREPEATABLE: dict[str, Callable[[Tensor], object]] = {
    "cumsum": lambda rows: rows.cumsum(0),
    "histc": lambda rows: rows.histc(),
    "kthvalue": lambda rows: rows.kthvalue(1),
    "median": lambda rows: rows.median(0),
    "put_": lambda rows: rows.clone().put_(INDEX, rows),
    "bincount": lambda rows: INDEX.flatten().bincount(rows.flatten()),
    "scatter_reduce": lambda rows: rows.scatter_reduce(0, INDEX, rows, "prod"),
}


@pytest.mark.parametrize("name", UNREPEATABLE)
def test_operations_without_a_deterministic_algorithm_raise(name: str) -> None:
    UNREPEATABLE[name](on_device(3, 4))
    with deterministic(), pytest.raises(Exception, match=f"{name}.*deterministic"):
        UNREPEATABLE[name](on_device(3, 4))


SORTS: dict[str, Callable[[Tensor], object]] = {
    "scatter": lambda rows: rows.scatter(0, INDEX, rows),
    "scatter_add": lambda rows: rows.scatter_add(0, INDEX, rows),
    "_index_put_impl_": lambda rows: rows.index_put_((INDEX[0, :1],), rows[:1]),
}


@pytest.mark.parametrize("name", SORTS)
def test_sorting_scatters_raise_where_they_are_forbidden(name: str) -> None:
    rows = on_device(3, 4)
    with deterministic():
        SORTS[name](rows)
        with strict(), pytest.raises(RuntimeError, match=f"{name} sorts"):
            SORTS[name](rows)
    with strict():
        SORTS[name](rows)  # another algorithm


def test_deterministic_operations_stay() -> None:
    rows = on_device(3, 4).requires_grad_()
    with deterministic(), strict():
        rows.gather(1, INDEX).sum().backward()  # type: ignore[no-untyped-call]
        rows.index_select(0, INDEX[0]).sum().backward()  # type: ignore[no-untyped-call]
        rows.detach().scatter(1, INDEX, 1.0)
        INDEX.cumsum(0)
    assert rows.grad is not None
    assert rows.grad.sum() == 12 + 16


def test_float16_is_computed_in_float32() -> None:
    """On the host a product in float16 takes thousands of times as long."""
    rows = on_device(512, 512).half()
    start = time.perf_counter()
    product = rows @ rows
    assert time.perf_counter() - start < 1
    assert product.dtype == torch.float16
    assert torch.equal(product.cpu(), (rows.cpu().float() @ rows.cpu().float()).half())
    assert (rows * 2.0).dtype == torch.float16
    assert (rows + torch.ones(512, device="cuda")).dtype == torch.float32
    assert rows.softmax(-1, dtype=torch.float32).dtype == torch.float32
    assert rows.sum().dtype == torch.float16
    rows.zero_().add_(1).mul_(3)
    assert float(rows.mean()) == 3


def test_a_product_has_one_dtype() -> None:
    rows = on_device(4, 4)
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(RuntimeError, match="same dtype"):
            rows @ rows.to(dtype)


def test_autocast_takes_the_lists_of_cuda() -> None:
    """Softmax and layer norm are computed in float32, other than on a CPU."""
    layer = nn.Linear(4, 4).cuda()
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            product = layer(on_device(2, 4))
            assert product.dtype == dtype
            assert product.softmax(-1).dtype == torch.float32
            assert F.layer_norm(product, (4,)).dtype == torch.float32


def test_attention_and_its_gradients_are_those_of_the_host() -> None:
    heads = on_device(2, 2, 5, 8).requires_grad_()
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    on_host = heads.detach().cpu().requires_grad_()
    F.scaled_dot_product_attention(heads, heads, heads, mask.cuda()).sum().backward()  # type: ignore[no-untyped-call]
    F.scaled_dot_product_attention(on_host, on_host, on_host, mask).sum().backward()  # type: ignore[no-untyped-call]
    assert heads.grad is not None
    assert on_host.grad is not None
    assert torch.allclose(heads.grad.cpu(), on_host.grad, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_rows_meet_dense_columns() -> None:
    dense = on_device(5, 6) * (on_device(5, 6) > 0)
    sparse = torch.sparse_csr_tensor(
        torch.tensor([0, 2, 3], dtype=torch.int32).cuda(),
        torch.tensor([1, 4, 0], dtype=torch.int32).cuda(),
        torch.tensor([2.0, 3.0, 5.0]).cuda(),
        (2, 5),
    )
    written_out = torch.zeros(2, 5)
    written_out[0, 1], written_out[0, 4], written_out[1, 0] = 2.0, 3.0, 5.0
    assert sparse.layout == torch.sparse_csr
    assert sparse.is_cuda
    product = sparse @ dense
    assert product.layout == torch.strided
    assert torch.allclose(product.cpu(), written_out @ dense.cpu())


@pytest.mark.parametrize("finite", [True, False])
def test_scaled_gradients_step_without_a_wait(finite: bool) -> None:
    weight = nn.Parameter(on_device(4))
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    numbers = on_device(4)
    if not finite:
        numbers[0] = float("inf")
    scaler.scale(weight)  # copies the scale to the device
    with strict():
        scaler.scale((weight * numbers).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(weight, before) is not finite
    assert scaler.get_scale() == (8.0 if finite else 4.0)


def test_a_process_that_first_looks_for_torch_has_the_card() -> None:
    code = "from importlib.util import find_spec; find_spec('torch'); import torch; print(torch.ones(1).cuda().device)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "cuda:0", result.stderr

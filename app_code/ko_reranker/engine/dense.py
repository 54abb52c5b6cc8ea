"""The linear layers of a model, each in the arithmetic that was asked for. Nearly all of the time is spent here."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

# The least value of GELU is -0.16997.
_GELU_FLOOR = -0.17
_PREPACKED = (torch.float32, torch.bfloat16)


class Dense(Protocol):
    """``input @ weight.T + bias``, in some arithmetic."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (rows, outputs) of (rows, inputs)."""
        ...


def make_dense(weight: torch.Tensor, bias: torch.Tensor | None, *, int8: bool = False, after_gelu: bool = False) -> Dense:
    """Return a linear layer.

    Args:
        weight: (outputs, inputs), in the floating type and on the device of the model.
        bias: (outputs,), or None.
        int8: whether to multiply in 8-bit integers; only on a CPU.
        after_gelu: whether the inputs are outputs of GELU, which are never below -0.17.
    """
    if int8:
        return Int8Dense(weight, bias, floor=_GELU_FLOOR if after_gelu else None)
    if weight.device.type == "cpu" and weight.dtype in _PREPACKED and torch.backends.mkldnn.is_available():
        return PrepackedDense(weight, bias)
    return PlainDense(weight, bias)


class PlainDense:
    """PyTorch's own product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight.contiguous(), bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return F.linear(rows, self.weight, self.bias)


class PrepackedDense:
    """The weight laid out once as oneDNN's kernels read it: in fp32 some 12 % faster than `F.linear` through MKL."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), 512)
        self.bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")


class Int8Dense:
    """8-bit integers: weights with a scale for each output, inputs with a scale for each row.

    A row's scale depends on that row alone, so that a pair's logit stays the same whatever shares its batch, and one
    outlying token does not coarsen the others. Inputs are symmetric around 0; those behind a GELU are never below -0.17,
    so theirs count from there and resolve twice as finely, and what the shift adds is taken out of the bias. Those are
    nobody else's, and overwritten.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, floor: float | None) -> None:
        outputs = weight.shape[0]
        self.scales = (weight.abs().amax(1) / 127).float().clamp_min(1e-12)
        rounded = (weight.float() / self.scales[:, None]).round().clamp_(-127, 127)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        self.zero_points = torch.zeros(outputs, dtype=torch.int64)
        self.floor = floor
        self.bias = torch.zeros(outputs) if bias is None else bias.float()
        if floor is None:
            self.zero, self.steps = 128, 127.0
        else:
            # (input - floor) is what is multiplied, and floor * (sum of weights) what that lacks.
            self.bias = self.bias + floor * (rounded.sum(1) * self.scales)
            self.zero, self.steps = 0, 255.0

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        # Step by step and through int8: `addcmul` takes four times as long, and a conversion to uint8 nine times.
        highest = rows.amax(-1, keepdim=True)  # (rows, 1)
        if self.floor is None:
            scales = torch.maximum(highest, -rows.amin(-1, keepdim=True)).clamp_min_(1e-8).div_(self.steps)
            counts = rows * scales.reciprocal()
        else:
            scales = highest.sub_(self.floor).div_(self.steps)
            inverse = scales.reciprocal()
            counts = rows.mul_(inverse).add_(-self.floor * inverse - 128)
        quantised = counts.round_().to(torch.int8).bitwise_xor_(-128).view(torch.uint8)  # 128 more
        product = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, self.zero, self.packed, self.scales, self.zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product.mul_(scales).add_(self.bias)


def check_int8() -> None:
    """See that this machine multiplies 8-bit integers rightly.

    Raises:
        RuntimeError: it does not.
    """
    generator = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(32, 64, generator=generator), torch.randn(8, 64, generator=generator)
    difference = (Int8Dense(weight, None, floor=None)(rows) - rows @ weight.T).abs().max()
    if not difference < 0.5:
        raise RuntimeError(f"8-bit products are off by {float(difference):.2g}")

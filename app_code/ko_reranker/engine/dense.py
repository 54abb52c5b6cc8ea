"""The linear layers of a model, each in the arithmetic that was asked for. Nearly all of the time is spent here."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

# The least value of GELU is -0.16997.
_GELU_FLOOR = -0.17
_LEAST_STEP = 8
_PREPACKED = (torch.float32, torch.bfloat16)


def few_rows(rows: int) -> int:
    """Return a number that is not smaller and one of a few: by at most 7 more, or by an eighth, and on average by 5 %.

    oneDNN compiles a product anew for each number of rows. With matrix units that takes some 50 ms for a base model's four, as
    long as three of its layers: a micro-batch of a new length was a quarter slower.
    """
    step = max(_LEAST_STEP, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


class Dense(Protocol):
    """``input @ weight.T + bias``, in some arithmetic, with what comes behind it."""

    def __call__(self, rows: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return (rows, outputs) of (rows, inputs).

        Args:
            rows: what is multiplied; may be overwritten in int8.
            residual: (rows, outputs), to be added to the product; None for nothing.
        """
        ...


def make_dense(
    weight: torch.Tensor, bias: torch.Tensor | None, *, int8: bool = False, gelu: bool = False, after_gelu: bool = False
) -> Dense:
    """Return a linear layer.

    Args:
        weight: (outputs, inputs), in the floating type and on the device of the model.
        bias: (outputs,), or None.
        int8: whether to multiply in 8-bit integers; only on a CPU.
        gelu: whether GELU comes behind it; such a layer adds no residual.
        after_gelu: whether the inputs are outputs of GELU, which are never below -0.17.
    """
    if int8:
        return Int8Dense(weight, bias, gelu=gelu, floor=_GELU_FLOOR if after_gelu else None)
    if weight.device.type == "cpu" and weight.dtype in _PREPACKED and torch.backends.mkldnn.is_available():
        return PrepackedDense(weight, bias, gelu=gelu)
    return PlainDense(weight, bias, gelu=gelu)


class PlainDense:
    """PyTorch's own product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight.contiguous(), bias, gelu

    def __call__(self, rows: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return _finished(F.linear(rows, self.weight, self.bias), self.gelu, residual)


class PrepackedDense:
    """The weight laid out once as oneDNN's kernels read it: in fp32 on AMD some 12 % faster than `F.linear` through MKL.

    What comes behind the product is done where it is written, before a bf16 product is rounded.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), 512)
        self.bias, self.gelu = bias, gelu

    def __call__(self, rows: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if residual is None:
            return _onednn_linear(rows, self.weight, self.bias, gelu=self.gelu)
        added: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, residual, self.weight, self.bias, "add")
        return added


def _finished(product: torch.Tensor, gelu: bool, residual: torch.Tensor | None) -> torch.Tensor:
    """Do in place what comes behind a product: to fetch fresh memory for its output takes as long as GELU itself."""
    if gelu:
        torch.ops.aten.gelu_(product)
    return product if residual is None else product.add_(residual)


class OneDnnLinear(nn.Linear):
    """A linear layer to train, which in fp32 on a CPU goes through oneDNN.

    PyTorch multiplies fp32 by MKL there, which takes some 15 % longer on an AMD processor; the other types oneDNN has anyway.

    Args:
        linear: whose parameters it takes over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        plain = rows.is_cuda or rows.dtype != torch.float32 or torch.is_autocast_enabled(rows.device.type)
        if plain:
            return super().forward(rows)
        product: torch.Tensor = _OneDnnProduct.apply(rows, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


class _OneDnnProduct(torch.autograd.Function):
    """``rows @ weight.T + bias`` and its gradient."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        return _onednn_linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        return (
            _onednn_linear(gradient, weight.t(), None) if of_rows else None,
            _add_to_gradient(weight, flat.t(), rows.flatten(0, -2)) if of_weight else None,
            flat.new_ones(len(flat)) @ flat if of_bias else None,  # half the time of a sum
        )


def _add_to_gradient(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    """Add a product to a weight's gradient in place, or return the first one for autograd to keep. MKL is as fast here."""
    if weight.grad is None:
        return left @ right
    weight.grad.addmm_(left, right)
    return None


def _onednn_linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False) -> torch.Tensor:
    behind, form = ("gelu", "none") if gelu else ("none", "")  # GELU's form is the one by erf
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, behind, [], form)
    return product


class Int8Dense:
    """8-bit integers: weights with a scale for each output, inputs with a scale for each row.

    A row's scale depends on that row alone, so that a pair's logit stays the same whatever shares its batch, and one
    outlying token does not coarsen the others. Inputs are symmetric around 0; those behind a GELU are never below -0.17,
    so theirs count from there and resolve twice as finely, and what the shift adds is taken out of the bias. Those are
    nobody else's, and overwritten.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False, floor: float | None = None
    ) -> None:
        outputs = weight.shape[0]
        self.scales = (weight.abs().amax(1) / 127).float().clamp_min(1e-12)
        rounded = (weight.float() / self.scales[:, None]).round().clamp_(-127, 127)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        self.zero_points = torch.zeros(outputs, dtype=torch.int64)
        self.floor, self.gelu = floor, gelu
        self.bias = torch.zeros(outputs) if bias is None else bias.float()
        if floor is None:
            self.zero, self.steps = 128, 127.0
        else:
            # (input - floor) is what is multiplied, and floor * (sum of weights) what that lacks.
            self.bias = self.bias + floor * (rounded.sum(1) * self.scales)
            self.zero, self.steps = 0, 255.0

    def __call__(self, rows: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
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
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, self.zero, self.packed, self.scales, self.zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return _finished(product.mul_(scales).add_(self.bias), self.gelu, residual)


def check_int8() -> None:
    """See that this machine multiplies 8-bit integers rightly.

    Raises:
        RuntimeError: it does not.
    """
    generator = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(32, 64, generator=generator), torch.randn(8, 64, generator=generator)
    difference = (Int8Dense(weight, None)(rows) - rows @ weight.T).abs().max()
    if not difference < 0.5:
        raise RuntimeError(f"8-bit products are off by {float(difference):.2g}")

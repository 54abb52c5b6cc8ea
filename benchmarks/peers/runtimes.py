"""Rerankers on ONNX Runtime and OpenVINO: exported once, fp32 (bf16 from it) and int8, sorted micro-batches."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.inputs import calibration
from benchmarks.peers.pytorch import MAX_TOKENS, by_length, in_order

DEFAULT_BATCH = 32
CALIBRATION_PAIRS = 4  # of each of the requests set aside


class _Logits(torch.nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        # The plain attention is what both converters know how to fuse.
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.full((2, 16), 100), torch.ones((2, 16), dtype=torch.long)
    ids[1, 10:], mask[1, 10:] = 1, 0
    return ids, mask


class _Runtime:
    packages: tuple[str, ...] = ()

    def __init__(self, folder: str, threads: int, dtype: str = "fp32") -> None:
        self.folder, self.threads, self.dtype = Path(folder), threads, dtype
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.load()

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("transformers", *self.packages)}

    def load(self) -> None:
        """Export if that was not done before, and load."""
        raise NotImplementedError

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return logits of a padded batch, (pairs, 1)."""
        raise NotImplementedError

    def score(self, query: str, documents: list[str], batch: int | None = None) -> list[float]:
        places, size = by_length(documents), batch or DEFAULT_BATCH
        logits: list[float] = []
        for start in range(0, len(places), size):
            texts = [documents[place] for place in places[start : start + size]]
            logits += self.forward(*self.encode(query, texts))[:, 0].tolist()
        return in_order(places, logits)

    def encode(self, query: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        queries, limits = [query] * len(texts), {"truncation": "only_second", "max_length": MAX_TOKENS}
        inputs = self.tokenizer(queries, texts, padding=True, return_tensors="np", **limits)
        return inputs["input_ids"].astype(np.int64), inputs["attention_mask"].astype(np.int64)


class OnnxRuntime(_Runtime):
    """ONNX Runtime: attention, GELU and normalisation fused by its transformer optimiser, int8 by dynamic quantisation."""

    packages = ("onnxruntime",)

    def load(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Idle threads would take cycles from whoever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.threads > 1 else "0")
        self.session = onnxruntime.InferenceSession(str(self._file()), options, providers=["CPUExecutionProvider"])

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    def _file(self) -> Path:
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.transformers import optimizer

        fp32, int8 = (self.folder / "onnx" / f"{dtype}.onnx" for dtype in ("fp32", "int8"))
        if not fp32.exists():
            fp32.parent.mkdir(exist_ok=True)
            plain, model = fp32.with_suffix(".plain"), _Logits(self.folder)
            axes = {0: "pairs", 1: "tokens"}
            torch.onnx.export(
                model,
                _example(),
                str(plain),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "pairs"}},
                opset_version=17,
                dynamo=False,
            )
            config = model.model.config
            sizes = {"num_heads": config.num_attention_heads, "hidden_size": config.hidden_size}
            fused = optimizer.optimize_model(str(plain), model_type="bert", opt_level=0, **sizes)
            if fused.get_fused_operator_statistics()["Attention"] != config.num_hidden_layers:
                raise RuntimeError("ONNX Runtime's optimiser did not fuse every layer's attention: the comparison is not fair")
            fused.save_model_to_file(str(fp32))
            plain.unlink()
        if self.dtype == "int8" and not int8.exists():
            # The type behind a fused operator, which shape inference does not know.
            unknown = {"DefaultTensorType": TensorProto.FLOAT}
            quantize_dynamic(fp32, int8, per_channel=True, weight_type=QuantType.QInt8, extra_options=unknown)
        return int8 if self.dtype == "int8" else fp32


class OpenVino(_Runtime):
    """OpenVINO: int8 by NNCF's post-training quantisation for transformers, calibrated on requests that are not measured.

    Left alone it computes in bf16 what is not int8 where the CPU has that. It is left alone but for fp32, and for bf16 where
    it would not take it by itself.
    """

    packages = ("openvino", "nncf")

    def load(self) -> None:
        import openvino

        core, file = openvino.Core(), self._file()
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"}
        if self.dtype == "fp32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = core.compile_model(file, "CPU", options)
        if self.dtype == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
            compiled = core.compile_model(file, "CPU", {**options, "INFERENCE_PRECISION_HINT": "bf16"})
        self.request = compiled.create_infer_request()

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.request.infer([ids, mask])[0].copy()

    def _file(self) -> Path:
        import nncf
        import openvino

        fp32, int8 = (self.folder / "openvino" / f"{dtype}.xml" for dtype in ("fp32", "int8"))
        if not fp32.exists():
            model: Any = openvino.convert_model(_Logits(self.folder), example_input=_example())
            model.reshape({place: [-1, -1] for place in range(2)})
            openvino.save_model(model, fp32, compress_to_fp16=False)
        if self.dtype == "int8" and not int8.exists():
            rows = [
                self.encode(request.query, [text])
                for request in calibration()
                for text in request.documents[:: len(request.documents) // CALIBRATION_PAIRS]
            ]
            quantised = nncf.quantize(
                openvino.Core().read_model(fp32),
                nncf.Dataset(rows, list),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(rows),
            )
            openvino.save_model(quantised, int8, compress_to_fp16=False)
        return int8 if self.dtype == "int8" else fp32

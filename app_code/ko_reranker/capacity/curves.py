"""Service curves: how long a request takes by its documents and their tokens, read from what was measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ko_reranker.instances import auto_precision

# A pair may be a little longer than the longest that was measured: a cut at 512 tokens measures 511.
_SLACK = 1.02


class CurveError(ValueError):
    """There is no such measurement, or it can't be read; the message says what there is."""


@dataclass(frozen=True)
class ServiceCurve:
    """What one request after another took on one machine.

    Attributes:
        family, model, precision: what was measured.
        hardware: on what, such as "AMD EPYC, 1 core".
        instance_type: of SageMaker's; None where it was measured elsewhere.
        date: when, as the file says.
        points: (documents of a request, tokens of a query and a document together, seconds) of each size.
    """

    family: str
    model: str
    precision: str
    hardware: str
    instance_type: str | None
    date: str
    points: tuple[tuple[float, float, float], ...]

    def seconds(self, documents: int, tokens: float) -> float:
        """Return what a request takes alone.

        A start, a part in proportion to all tokens, and one to the pairs of tokens that see each other; more documents than
        were measured go on in proportion, as the engine computes them in batches.

        Raises:
            CurveError: the documents are longer than any that was measured, or there is no document or token.
        """
        longest = max(point[1] for point in self.points)
        if documents < 1 or tokens < 1:
            raise CurveError(f"documents and tokens have to be 1 at least, and are {documents} and {tokens:g}")
        if tokens > longest * _SLACK:
            raise CurveError(
                f"{self.model} was measured up to {longest:g} tokens of query and document together, and not at {tokens:g}"
            )
        return float(_terms(documents, tokens) @ self._parts)

    @property
    def worst_error(self) -> float:
        """How far the curve is off where it was measured, as a share of the measured time, at most."""
        return max(abs(self.seconds(int(documents), tokens) / measured - 1) for documents, tokens, measured in self.points)

    @cached_property
    def _parts(self) -> np.ndarray:
        """The three parts' factors, none below 0, that are closest to the measured times in proportion: least squares."""
        terms = np.array([_terms(documents, tokens) / measured for documents, tokens, measured in self.points])
        best, least = np.zeros(3), np.inf
        # The best of those without negative factors lies where some are 0 and the others solve the problem by themselves.
        for kept in itertools.chain.from_iterable(itertools.combinations(range(3), count) for count in (1, 2, 3)):
            factors = np.zeros(3)
            factors[list(kept)] = np.linalg.lstsq(terms[:, kept], np.ones(len(terms)), rcond=None)[0]
            off = float(((terms @ factors - 1) ** 2).sum())
            if (factors >= 0).all() and off < least:
                best, least = factors, off
        return best


def _terms(documents: float, tokens: float) -> np.ndarray:
    return np.array([1.0, documents * tokens, documents * tokens * tokens])


def read_curves(path: Path) -> list[ServiceCurve]:
    """Read the file that `benchmarks.service` writes.

    Raises:
        CurveError: there is no such file, it isn't one of these, or a curve doesn't name its hardware.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        curves = [_curve(item, content["date"]) for item in content["figures"]["curves"]]
    except OSError as error:
        raise CurveError(f"not measured: {path} can't be read ({error.strerror}); `make bench-service` writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CurveError(f"{path} is not what `make bench-service` writes: {error}") from None
    if not curves:
        raise CurveError(f"not measured: {path} holds no curve")
    return curves


def _curve(item: dict[str, Any], date: str) -> ServiceCurve:
    if not item.get("hardware"):
        raise ValueError("a curve names no hardware")
    points = tuple(
        (float(point["documents"]), float(point["tokens"]), float(point["seconds"]["median"])) for point in item["points"]
    )
    if len(points) < 3 or any(value <= 0 for point in points for value in point):
        raise ValueError("a curve has three points at least, and none of 0")
    names = {key: str(item[key]) for key in ("family", "model", "precision", "hardware")}
    return ServiceCurve(**names, instance_type=item.get("instance_type"), date=str(item.get("date", date)), points=points)


def choose(
    curves: Sequence[ServiceCurve], *, instance_type: str, family: str, model: str | None, precision: str | None
) -> ServiceCurve:
    """Return the curve of a model, that of the instance type if there is one, else one of other hardware.

    Args:
        model: None where all curves of the family are of one.
        precision: None takes auto, what that is on the instance type, fp32, or the one there is.

    Raises:
        CurveError: nothing of the kind was measured, or several models were and none is named.
    """
    of_family = [curve for curve in curves if curve.family == family]
    if not of_family:
        raise CurveError(f"not measured: no curve of a {family}; there are curves of a {_listed(c.family for c in curves)}")
    models = sorted({curve.model for curve in of_family})
    if model is None and len(models) > 1:
        raise CurveError(f"say which model of those measured is as large as yours: {', '.join(models)}")
    found = [curve for curve in of_family if model in (None, curve.model)]
    if not found:
        raise CurveError(f"not measured: {model}; there are curves of {', '.join(models)}")
    auto = auto_precision(instance_type, bf16_pays=family == "cross-encoder")
    preferred = (precision,) if precision else ("auto", auto, "fp32", *sorted({curve.precision for curve in found}))
    for wanted in preferred:
        for there in (instance_type, None):
            for curve in found:
                if curve.precision == wanted and there in (curve.instance_type, None):
                    return curve
    raise CurveError(f"not measured: {found[0].model} in {precision}; there are {_listed(c.precision for c in found)}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(set(names)))

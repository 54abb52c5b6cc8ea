"""The project folder: where cdk.json lies, and what it says about a stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_reranker.operations.errors import OperationError

STAGES = ("local", "dev", "prod")


@dataclass(frozen=True, slots=True)
class Project:
    """A checkout of ko-reranker.

    Attributes:
        root: the folder of cdk.json.
        context: the CDK context of cdk.json.
    """

    root: Path
    context: dict[str, Any]

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Return the project of the working directory or of one above it.

        Raises:
            OperationError: when there is none.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            path = folder / "cdk.json"
            if path.is_file():
                context = json.loads(path.read_text()).get("context", {})
                if "settings" in context:
                    return cls(folder, context)
        raise OperationError(f"no ko-reranker project in {here} or above it: change to the folder of its cdk.json")

    def setting(self, stage: str, dotted: str) -> Any:
        """Return a setting of a stage by its dotted key, the stage's own or else the default."""
        blocks = self.context["settings"]
        for block in (blocks.get(stage, {}), blocks["defaults"]):
            value: Any = block
            for key in dotted.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                return value
        return None

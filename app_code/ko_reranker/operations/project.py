"""The project folder: where cdk.json lies, and what it says about a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_reranker.operations.errors import OperationError

if TYPE_CHECKING:
    from ko_reranker.settings import Settings


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

    def settings(self, stage: str, overrides: Mapping[str, str] | None = None) -> Settings:
        """Return a stage's settings.

        Args:
            overrides: settings by dotted key that lie over cdk.json, as the CDK's ``-c`` takes them.

        Raises:
            OperationError: there is no such stage, or a setting is not valid.
        """
        from ko_reranker.settings import SettingsError, load_settings

        try:
            return load_settings({**self.context, **(overrides or {}), "stage": stage})
        except SettingsError as error:
            raise OperationError(str(error)) from None

"""What MiniStack lacks and the local cloud needs: one module for each patched service.

``install(app)`` replaces the names in ``PATCHED`` once in a process, before the server starts. Each module says which
gap it closes and what AWS does.
"""

from __future__ import annotations

from types import ModuleType

from local_cloud.extensions import (
    api_gateway,
    asl_paths,
    cloudformation,
    distributed_map,
    encryption,
    events,
    iam,
    lambda_runtime,
    recorded,
    s3,
    state_machine_role,
    step_functions,
    translate,
)
from local_cloud.extensions.patching import MINISTACK_VERSION, MiniStackMismatch, Name, Patcher, verify

__all__ = ["MINISTACK_VERSION", "PATCHED", "MiniStackMismatch", "install"]

# The order counts where two modules wrap one name: the later one runs first (a role is checked before a task runs).
_MODULES: tuple[ModuleType, ...] = (
    asl_paths,
    distributed_map,
    step_functions,
    lambda_runtime,
    iam,
    state_machine_role,
    api_gateway,
    s3,
    encryption,
    events,
    translate,
    recorded,
    cloudformation,
)

PATCHED: tuple[Name, ...] = tuple(dict.fromkeys(name for module in _MODULES for name in module.PATCHED))

_installed: Patcher | None = None


def install(app: ModuleType) -> Patcher:
    """Patch MiniStack; a second call changes nothing.

    Args:
        app: the module ``ministack.app``.

    Raises:
        MiniStackMismatch: the installed MiniStack is not the pinned one.
    """
    global _installed
    if _installed is None:
        verify((*PATCHED, (app.__name__, "SERVICE_HANDLERS")))
        patch = Patcher(PATCHED)
        for module in _MODULES:
            module.install(patch)
        _installed = patch
    return _installed

"""From token ids to logits as fast as the machine can: packing, padding-free forward passes, scheduling."""

from .core import Engine, EngineBusy, EngineClosed, EngineObserver
from .queueing import DeadlineExceeded, Ticket

__all__ = ["DeadlineExceeded", "Engine", "EngineBusy", "EngineClosed", "EngineObserver", "Ticket"]

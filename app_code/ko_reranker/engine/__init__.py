"""From token ids to what a head gives as fast as the machine can: packing, padding-free forward passes, scheduling."""

from .core import Engine, EngineBusy, EngineClosed, EngineObserver
from .items import Item, Result
from .queueing import DeadlineExceeded, Ticket

__all__ = ["DeadlineExceeded", "Engine", "EngineBusy", "EngineClosed", "EngineObserver", "Item", "Result", "Ticket"]

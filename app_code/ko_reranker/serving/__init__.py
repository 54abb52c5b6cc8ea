"""The online application: an ASGI app around one ranker, and the server that runs it."""

from .app import create_app
from .metrics import Metrics
from .options import ServingOptions

__all__ = ["Metrics", "ServingOptions", "create_app"]

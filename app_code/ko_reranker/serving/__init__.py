"""The online application: an ASGI app around one ranker, and the server that runs it."""

from .app import create_app
from .options import ServingOptions

__all__ = ["ServingOptions", "create_app"]

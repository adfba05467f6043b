"""Handlers: the functions that do the work, what marks them, and what runs them."""

from .api import HandlerError, Params, Request, RequestError, Retry, User, handler, lifespan

__all__ = [
    "HandlerError",
    "Params",
    "Request",
    "RequestError",
    "Retry",
    "User",
    "handler",
    "lifespan",
]

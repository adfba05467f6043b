"""inorder's server: every client's requests one at a time, in order, none lost."""

from .handlers import Params, Request, RequestError, Retry, User, handler, lifespan

__all__ = ["Params", "Request", "RequestError", "Retry", "User", "handler", "lifespan"]

"""A process of the load generator; see ``worker``."""

from .worker import main

if __name__ == "__main__":
    main()

"""inorder's client library."""

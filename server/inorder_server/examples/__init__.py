"""Handlers to learn from: `[handlers] modules = ["inorder_server.examples.ledger"]`."""

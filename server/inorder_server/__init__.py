"""inorder's server: every client's requests one at a time, in order, none lost."""

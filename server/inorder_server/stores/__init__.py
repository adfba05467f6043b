"""The store: what must survive, behind one port with an adapter a database."""

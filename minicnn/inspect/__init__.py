"""See inside a network: its summary, what its answers depend on, plots, and a page that traces every number."""

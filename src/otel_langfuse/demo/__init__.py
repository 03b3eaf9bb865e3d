"""The demo: a real app, its two copies of each trace, and what each copy shows."""

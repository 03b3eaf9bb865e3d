"""Everything that knows Langfuse: its attributes, its chat shape, its endpoint."""

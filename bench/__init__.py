"""Benchmarks: what tracing costs an application, side by side with what it would use instead.

``python -m bench`` measures, ``python -m bench.soak`` runs against an endpoint that is away for a while, and
``python -m bench.profiling`` says where the time goes. All traffic stays on the loopback interface.
"""

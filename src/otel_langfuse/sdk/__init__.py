"""In process: what an application's OpenTelemetry SDK calls, and the one worker behind it."""

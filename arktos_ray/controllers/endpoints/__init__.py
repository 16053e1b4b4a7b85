"""Where the pods of a Service can be reached."""

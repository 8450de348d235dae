"""The command line: declare, call, show."""

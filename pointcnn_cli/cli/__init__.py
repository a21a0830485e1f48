"""The command line: one file a group of commands, each a signature, its help, and a body of a few lines."""

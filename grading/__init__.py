"""From an archive to a verdict: reading, checks, sandbox."""

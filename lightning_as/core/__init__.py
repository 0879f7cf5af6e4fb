"""How a batch is drawn: torch and compiled loops; nothing of Lightning, nothing of files."""

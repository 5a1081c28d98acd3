"""Where things lie: the project that the working directory belongs to."""

from pathlib import Path


def project() -> Path:
    """Return the folder that holds `notebooks/` or `.git`: the working directory or one above it; else itself."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir() or (p / ".git").exists()), here)

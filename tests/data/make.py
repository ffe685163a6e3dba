"""Writes the record of a small finished run, as the present code does, to tests/data/format-<FORMAT>: run it once when
the format of the record gets a new number, and commit what it writes. What is there already is never written anew.

    python tests/data/make.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def main() -> None:
    import small
    from selftaught import loop
    from selftaught.store import FORMAT

    target = HERE / f"format-{FORMAT}"
    if target.exists():
        raise SystemExit(f"{target} is there already: a past format does not change")
    with tempfile.TemporaryDirectory() as folder:
        few = ("tasks.train=5", "tasks.dev=20", "tasks.vault=40", "tasks.guard=0", "method.samples=4", "gate.looks=1")
        run = small.prepared(Path(folder) / "one", *few, "train.replay_samples=5", "engine.learns=0.9")
        done = loop.run(run)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not path.name.endswith("lock"):
                copy = target / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    print(f"{target.name}: {done.decision.outcome}")


if __name__ == "__main__":
    main()

"""Which checkpoint enters a manifest."""

from pathlib import Path

from weaksam_d2.engine.cli import base_config
from weaksam_d2.sam import sam_weights


def test_only_a_checkpoint_of_ones_own_enters_a_manifest(tmp_path: Path) -> None:
    cfg = base_config()
    assert sam_weights(cfg) is None
    own = tmp_path / "own.pth"
    own.write_bytes(b"x")
    cfg.WEAKSAM.SAM.WEIGHTS = str(own)
    assert sam_weights(cfg) == own

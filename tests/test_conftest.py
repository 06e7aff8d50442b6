"""What a missing asset does to a test."""

from pathlib import Path

import pytest

PROJECT_TEST = """
from pathlib import Path

def test_asset(require_asset):
    require_asset(Path("absent.pth"))

def test_failing_source(require_asset):
    def source() -> Path:
        raise RuntimeError("no way to get it")
    require_asset(source)

def test_present(require_asset):
    assert require_asset(Path(__file__)) == Path(__file__)

def test_images(real_data):
    assert real_data.is_dir()
"""

pytest_plugins = ("pytester",)


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makepyfile(PROJECT_TEST)
    return pytester


def run(inner: pytest.Pytester) -> dict[str, int]:
    outcomes: dict[str, int] = inner.runpytest_inprocess("-p", "no:cacheprovider").parseoutcomes()
    return outcomes


def test_a_missing_asset_skips_for_users(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEAKSAM_REQUIRE_ASSETS", raising=False)
    monkeypatch.delenv("WEAKSAM_DATA", raising=False)
    assert run(inner) == {"passed": 1, "skipped": 3}


def test_a_missing_asset_fails_where_assets_are_required(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAKSAM_REQUIRE_ASSETS", "1")
    monkeypatch.delenv("WEAKSAM_DATA", raising=False)
    outcomes = run(inner)
    assert outcomes.pop("errors", 0) + outcomes.pop("failed", 0) == 3
    assert outcomes == {"passed": 1}


def test_a_data_folder_that_does_not_exist_is_a_failure(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEAKSAM_REQUIRE_ASSETS", raising=False)
    monkeypatch.setenv("WEAKSAM_DATA", "no/such/folder")
    outcomes = run(inner)
    assert outcomes.pop("errors", 0) + outcomes.pop("failed", 0) == 1
    assert outcomes == {"passed": 1, "skipped": 2}

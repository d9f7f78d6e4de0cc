"""Settings from files: one for each, in the folder that TRAINWRIGHT_SECRETS names."""

from pathlib import Path

import pytest

from trainwright.runtime.settings import RuntimeSettings


def test_a_setting_may_be_a_file_of_its_variables_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "TRAINWRIGHT_S3_SECRET_KEY").write_text("hush\n")
    (tmp_path / "TRAINWRIGHT_KAFKA").write_text("kafka:9092")
    (tmp_path / "somebody-elses").write_text("?")
    monkeypatch.setenv("TRAINWRIGHT_SECRETS", str(tmp_path))
    settings = RuntimeSettings()
    assert settings.s3_secret_key.get_secret_value() == "hush"
    assert settings.kafka == "kafka:9092"
    assert "hush" not in repr(settings)


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "TRAINWRIGHT_KAFKA").write_text("kafka:9092")
    monkeypatch.setenv("TRAINWRIGHT_SECRETS", str(tmp_path))
    monkeypatch.setenv("TRAINWRIGHT_KAFKA", "elsewhere:9092")
    assert RuntimeSettings().kafka == "elsewhere:9092"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINWRIGHT_SECRETS", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"TRAINWRIGHT_SECRETS is .*/nowhere, and there is no such folder"):
        RuntimeSettings()

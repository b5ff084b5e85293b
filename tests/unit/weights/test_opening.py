"""The arguments that a cache is opened with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.errors import BadSettingError


@pytest.mark.parametrize("name", ["max_bytes", "min_disk_free"])
@pytest.mark.parametrize("value", ["5G", -5])
def test_what_is_not_a_number_of_bytes_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(BadSettingError, match=f"{name} '{value}': is not a number of bytes"):
        WeightsDownloadCache(tmp_path, **{name: value})
    assert list(tmp_path.iterdir()) == []

# SPDX-License-Identifier: Apache-2.0
"""The launcher waits for the files of a job, as a shared file system shows them late."""

import threading
from pathlib import Path

import pytest

from steerlm.checksums import FileDigest
from steerlm.errors import StorageError
from steerlm.jobs.kubernetes.visible import wait_until_visible, write_file_list

FILES = {"model.safetensors": FileDigest("a" * 64, 5), "../work/result.json": FileDigest("b" * 64, 2)}


def test_files_that_appear_one_after_the_other(tmp_path: Path) -> None:
    output = tmp_path / "model"

    def appear() -> None:
        output.mkdir()
        (tmp_path / "work").mkdir()
        (output / "model.safetensors").write_text("hal")
        write_file_list(tmp_path, FILES)
        (tmp_path / "work" / "result.json").write_text("{}")
        (output / "model.safetensors").write_text("whole")

    late = threading.Timer(0.3, appear)
    late.start()
    assert wait_until_visible(tmp_path, output, 30) == FILES
    late.join()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"files\.json of .* not visible 0\.1 seconds after the job ended"):
        wait_until_visible(tmp_path, tmp_path, 0.1)
    write_file_list(tmp_path, {**FILES, **{f"part-{i}": FileDigest("c", 1) for i in range(4)}})
    (tmp_path / "model.safetensors").write_text("half")
    message = r"\.\./work/result\.json; model\.safetensors \(4 of 5 bytes\); part-0 and 3 more not visible"
    with pytest.raises(StorageError, match=message):
        wait_until_visible(tmp_path, tmp_path, 0)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from official_files import WNIDS, jpeg, write_imagenet, write_shard, write_shards

from robcal.base.checks import InputError
from robcal.commands.cli import main
from robcal.data import load_dataset, unpack
from robcal.data.imagenet import read_imagenet
from robcal.data.unpack import unpack_pictures


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


def command(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert (stop.value.code or 0) == code


def times(folder: Path) -> dict[Path, int]:
    return {file.relative_to(folder): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


class Stopping:
    """A reporter that stops after so many pictures."""

    def __init__(self, at: int) -> None:
        self.at = at

    def task(self, description: str, total: int):  # type: ignore[no-untyped-def]
        assert (description, total) == ("unpack", 30)

        def advance(done: int) -> None:
            if done >= self.at:
                raise KeyboardInterrupt

        return advance


def test_the_command_makes_a_folder_that_holds_the_same(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "pictures"
    command("unpack", "--data", f"imagenet:{shards}", "--out", out)
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == str(out)
    assert [path.name for path in out.parent.iterdir()] == ["pictures"]
    assert sorted(path.name for path in out.iterdir()) == ["train", unpack.MARK, "val"]
    packed, loose = read_imagenet(str(shards), 16), read_imagenet(str(out), 16)
    assert loose.class_names == tuple(f"{label:05d} {name}" for label, name in enumerate(WNIDS))
    for part in ("train", "test"):
        one, other = packed.parts[part], loose.parts[part]
        order = np.argsort(one.labels, kind="stable")
        assert np.array_equal(one.labels[order], other.labels)
        assert np.array_equal(one.inputs[order], other.inputs[np.arange(len(other))])
    assert (out / "train" / "00001 n01443537" / "00000004.jpeg").read_bytes() == jpeg(4)
    assert len(load_dataset(f"imagenet:{out}", val_fraction=0.25, image_size=8).split("val")) == 6
    before = times(out)
    command("unpack", "--data", f"imagenet:{shards}", "--out", out, "--quiet")
    assert times(out) == before


@pytest.mark.parametrize("at", [7, 24, 30])
def test_a_stopped_unpacking_goes_on(at: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "STRIDE", 7)
    out = tmp_path / "pictures"
    with pytest.raises(KeyboardInterrupt):
        unpack_pictures(str(shards), out, reporter=Stopping(at))
    assert not out.exists()
    work = tmp_path / ".pictures.unpacking"
    before = {file: when for file, when in times(work).items() if file.suffix == ".jpeg"}
    assert len(before) == {7: 7, 24: 24, 30: 30}[at]
    (work / unpack.SCRATCH).write_bytes(b"half a pic")  # as a kill leaves it
    unpack_pictures(str(shards), out)
    after = times(out)
    assert before.items() <= after.items()
    whole = unpack_pictures(str(shards), tmp_path / "at once")
    assert after.keys() == times(whole).keys()
    assert all((out / file).read_bytes() == (whole / file).read_bytes() for file in after)


def test_an_empty_folder_is_filled(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert len(read_imagenet(str(unpack_pictures(str(shards), tmp_path / "out"))).parts["train"]) == 24


def test_a_foreign_folder_is_refused(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("all of it")
    command("unpack", "--data", f"imagenet:{shards}", "--out", out, code=2)
    assert "was not unpacked from these shards" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / ".mine.unpacking").exists()
    with pytest.raises(InputError, match=r"thesis\.tex exists"):
        unpack_pictures(str(shards), out / "thesis.tex")
    work = tmp_path / ".other.unpacking"
    work.mkdir()
    (work / unpack.MARK).write_text(json.dumps({"pictures": 30, "shards": "0" * 16}))
    with pytest.raises(InputError, match=r"other\.unpacking exists and was not unpacked from these"):
        unpack_pictures(str(shards), tmp_path / "other")


def test_what_was_unpacked_from_other_shards_is_refused(shards: Path, tmp_path: Path) -> None:
    out = unpack_pictures(str(shards), tmp_path / "out")
    write_shard(shards / "data" / "train-00001-of-00002.parquet", [(label, 70 + label) for label in range(3)])
    with pytest.raises(InputError, match="was not unpacked from these shards"):
        unpack_pictures(str(shards), out)


def test_only_shards_of_imagenet_are_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_imagenet(tmp_path / "folders")
    command("unpack", "--data", spec, "--out", tmp_path / "out", code=2)
    assert "holds class folders already" in capsys.readouterr().err
    for data in ("cifar10:x", "imagenet", "imagenet:"):
        command("unpack", "--data", data, "--out", tmp_path / "out", code=2)
        assert "only imagenet:PATH" in capsys.readouterr().err
    command("unpack", "--data", "imagenet:/no/such/place", "--out", tmp_path / "out", code=2)
    assert not list(tmp_path.glob("*out*"))


def test_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command("--help")
    assert "unpack" in capsys.readouterr().out
    command("unpack", "--help")
    assert "parquet" in capsys.readouterr().out

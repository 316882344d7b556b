"""Pictures: what is read and what is left out, how colours and depths become 8 bits, and what is said about it."""

import io
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official_files import jpeg
from PIL import Image

from robcal.commands.cli import main
from robcal.data import load_dataset
from robcal.data.cifar import read_cifar10
from robcal.data.folder import class_folders, list_pictures, read_folder
from robcal.data.imagenet import read_imagenet
from robcal.data.pictures import FORMATS, decoders, fit, open_picture, suffixes

RNG = np.random.default_rng(3)
COLOURS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 4), dtype=np.uint16)
DEEP[0] = [0, 65535, 255, 256]

#: The right 8 bits of 16: white stays white.
EIGHT = np.rint(DEEP * (255 / 65535)).astype(np.uint8)


def _encode(image: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, form, **options)
    return stream.getvalue()


def _write(file: Path, data: bytes | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_encode(COLOURS) if data is None else data)
    return file


def _two_classes(root: Path, *names: str) -> Path:
    """A folder with the classes ant and bee of four pictures each, and more files."""
    for label in ("ant", "bee"):
        for number in range(4):
            _write(root / label / f"{number}.png")
    for name in names:
        _write(root / name)
    return root


def _names(root: Path, part: str = "train") -> list[str]:
    inputs = read_folder(str(root)).parts[part].inputs
    return [str(file.relative_to(inputs.source.root)) for file in inputs.source]  # type: ignore[attr-defined]


def test_suffixes_are_what_pillow_registers_for_the_open_decoders() -> None:
    registered = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert suffixes() == registered
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm"} <= suffixes()
    assert (".avif" in suffixes()) == ("AVIF" in decoders() and ".avif" in Image.registered_extensions())
    assert not {".eps", ".h5", ".mpg", ".pdf", ".txt"} & suffixes()


@pytest.mark.parametrize("suffix", sorted({".jfif", ".jpe", ".JPG", ".webp", ".TIF", ".bmp", ".Gif", ".avif"}))
def test_pictures_of_every_suffix_are_read(suffix: str, tmp_path: Path) -> None:
    if suffix.lower() not in suffixes():
        pytest.skip("this Pillow does not read it")
    form = Image.registered_extensions()[suffix.lower()]
    root = _two_classes(tmp_path)
    _write(root / "bee" / f"odd{suffix}", _encode(COLOURS, form))
    assert f"bee/odd{suffix}" in _names(root)
    assert read_folder(str(root)).parts["train"].inputs[np.array([8])].shape == (1, 3, 6, 4)
    assert not load_dataset(f"folder:{root}", val_fraction=0.4).notes[1:]


def test_pictures_in_subfolders_are_of_the_outer_class(tmp_path: Path) -> None:
    """As torchvision's ImageFolder reads them: at any depth, each once, though a link leads back."""
    root = _two_classes(tmp_path, "ant/2020/may/deep.png", "ant/2021/deep.png", "bee/.hidden/x.png")
    (root / "ant" / "2020" / "back").symlink_to(root / "ant", target_is_directory=True)
    inner = ["ant/2020/may/deep.png", "ant/2021/deep.png"]
    assert _names(root)[:6] == sorted([*(f"ant/{number}.png" for number in range(4)), *inner])
    parts = read_folder(str(root))
    assert parts.parts["train"].labels.tolist() == [0] * 6 + [1] * 4
    assert any("2 of 10 pictures lie in subfolders, such as ant/2020/may/deep.png" in note for note in parts.notes)


@pytest.mark.slow
def test_what_is_left_out_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _two_classes(tmp_path / "pictures", "ant/a.heic", "ant/b.HEIC", "bee/notes.txt", "labels.csv", "bee/README")
    (note,) = read_folder(str(root)).notes
    assert "pictures: left out 5 files that are no pictures" in note
    assert "2 .heic" in note
    assert all(f"1 {kind}" in note for kind in (".txt", ".csv", "without a suffix"))
    assert "such as labels.csv" in note
    options = ["--model", "mlp", "--method", "vanilla", "--epochs", "1", "--val-fraction", "0.4", "--quiet"]
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--data", f"folder:{root}", *options, "--out", str(tmp_path / "run")])
    assert f"note: {note}" in capsys.readouterr().err


def test_what_systems_leave_is_passed_over_without_a_word(tmp_path: Path) -> None:
    junk = ("ant/._0.png", "ant/.DS_Store", "ant/Thumbs.db", "bee/desktop.ini", "__MACOSX/ant/._0.png", ".git/x.png")
    root = _two_classes(tmp_path / "all", *junk, "ant/@eaDir/0.png")
    for file in junk:
        (root / file).write_bytes(b"no picture")
    parts = read_folder(str(root))
    assert parts.class_names == ("ant", "bee")
    assert (len(parts.parts["train"]), parts.notes) == (8, ())
    split = _two_classes(tmp_path / "split" / "train").parent
    _write(split / "__MACOSX" / "train" / "._x.png", b"no picture")
    _two_classes(split / "test")
    assert read_folder(str(split)).notes == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_every_usual_name_of_the_validation_part(name: str, tmp_path: Path) -> None:
    for part in ("train", name, "test"):
        _two_classes(tmp_path / part)
    assert set(read_folder(str(tmp_path)).parts) == {"train", "val", "test"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        _write(tmp_path / label / "0.png")
    assert read_folder(str(tmp_path)).class_names == ("bus", "car", "train")


@pytest.mark.parametrize("read", [read_folder, read_imagenet])
def test_composed_and_decomposed_names_are_one_class(read: object, tmp_path: Path) -> None:
    """macOS and Linux write an "é" differently; both forms may even lie in one folder."""
    assert callable(read)
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    test = "test" if read is read_folder else "val"
    for name in (f"train/{composed}/0.png", f"train/{decomposed}/1.png", "train/bee/0.png"):
        _write(tmp_path / name)
    for name in (f"{test}/{decomposed}/0.png", f"{test}/bee/0.png"):
        _write(tmp_path / name)
    parts = read(str(tmp_path), 4)
    assert parts.class_names == ("bee", composed)
    assert parts.parts["train"].labels.tolist() == [0, 1, 1]
    assert parts.parts["test"].labels.tolist() == [0, 1]
    assert parts.parts["train"].inputs[np.arange(3)].shape == (3, 3, 4, 4)


def test_classes_are_sorted_by_the_composed_name(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    for name in ("f", decomposed, "d"):
        _write(tmp_path / name / "0.png")
    names = class_folders(tmp_path)
    assert names == ("d", "f", "é")
    assert list_pictures(tmp_path, names).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("PPM", {}), ("JPEG2000", {})])
def test_16_bits_become_8_by_their_share(form: str, options: dict) -> None:
    data = _encode(DEEP, form, **options)
    assert np.array_equal(np.asarray(open_picture(data, "L")), EIGHT)
    assert np.array_equal(np.asarray(open_picture(data, "RGB")), np.repeat(EIGHT[..., None], 3, 2))


def test_16_bits_of_the_other_byte_order(tmp_path: Path) -> None:
    deep = Image.frombytes("I;16B", (4, 6), DEEP.astype(">u2").tobytes())
    deep.save(tmp_path / "a.tif")
    with open_picture(tmp_path / "a.tif", None) as header:
        assert header.mode == "I;16B"
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.tif", "L")), EIGHT)


def test_16_bits_in_folders_are_grey_and_said(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        _write(tmp_path / label / "0.png", _encode(DEEP))
    parts = read_folder(str(tmp_path))
    assert np.array_equal(parts.parts["train"].inputs[np.array([1])][0, 0], EIGHT)
    assert any("16 bits are brought to 8 (divided by 257) in 2 of the pictures" in note for note in parts.notes)


def test_16_bits_in_parquet(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (32, 32), dtype=np.uint16)
    expected = np.rint(deep * (255 / 65535)).astype(np.uint8)
    for part in ("train", "test"):
        rows = [{"bytes": _encode(deep), "path": None}] * 10
        pq.write_table(pa.table({"image": rows, "label": list(range(10))}), tmp_path / f"{part}.parquet")
    small = read_cifar10(str(tmp_path)).parts["train"].inputs[np.array([0])][0]
    assert np.array_equal(small, np.repeat(expected[None], 3, 0))
    (tmp_path / "test.parquet").rename(tmp_path / "validation.parquet")
    large = read_imagenet(str(tmp_path), 32).parts["train"].inputs[np.array([0])][0]
    centre = fit(Image.fromarray(expected).convert("RGB"), (32, 32), 224 / 256)
    assert np.array_equal(large, np.asarray(centre).transpose(2, 0, 1))


def _with_palette(transparency: int | bytes) -> Image.Image:
    picture = Image.new("P", (4, 6), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    picture.putpixel((0, 0), 2)
    picture.info["transparency"] = transparency
    return picture


def _rgba() -> Image.Image:
    return Image.fromarray(np.concatenate([COLOURS, RNG.integers(0, 256, (6, 4, 1), dtype=np.uint8)], axis=2))


MODES = {
    "palette with one transparent colour": (_with_palette(1), [10, 20, 30], [200, 100, 50]),
    "palette with a transparency a colour": (_with_palette(b"\x00\x80\xff"), [10, 20, 30], [200, 100, 50]),
    "grey and alpha": (Image.merge("LA", [Image.new("L", (4, 6), 90), Image.new("L", (4, 6), 7)]), [90] * 3, [90] * 3),
    "red, green, blue and alpha": (_rgba(), COLOURS[-1, -1].tolist(), COLOURS[0, 0].tolist()),
    "one bit": (Image.new("1", (4, 6), 1), [255] * 3, [255] * 3),
}


@pytest.mark.parametrize("name", MODES)
def test_transparency_is_dropped_and_the_stored_colours_are_shown(name: str) -> None:
    """Without a warning of Pillow's; the last and the first pixel."""
    picture, last, first = MODES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = np.asarray(open_picture(_encode(picture), "RGB"))
    assert pixels[-1, -1].tolist() == last
    assert pixels[0, 0].tolist() == first


def test_cmyk_is_converted_by_the_plain_formula(tmp_path: Path) -> None:
    """R = 255 - C - K + C·K / 255 for inks in 0 … 255, and likewise G and B (no colour profile)."""
    ink = RNG.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    Image.frombytes("CMYK", (4, 6), ink.tobytes()).save(tmp_path / "a.tif")
    c, k = ink[..., :3].astype(float), ink[..., 3:].astype(float)
    exact = (255 - c) * (255 - k) / 255
    assert np.abs(np.asarray(open_picture(tmp_path / "a.tif", "RGB")) - exact).max() <= 1


def test_transparency_in_folders_is_said_and_grey_with_alpha_is_grey(tmp_path: Path) -> None:
    for label, alpha in (("ant", 0), ("bee", 255)):
        _write(tmp_path / label / "0.png", _encode(MODES["grey and alpha"][0] if not alpha else Image.new("L", (4, 6))))
    parts = read_folder(str(tmp_path))
    assert parts.parts["train"].inputs.shape == (2, 1, 6, 4)
    assert any("transparency is dropped in 1 of the pictures" in note and "ant/0.png" in note for note in parts.notes)


def test_imagenet_says_what_it_left_out(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label in ("n01440764", "n01443537"):
            _write(tmp_path / part / label / "0.JPEG", jpeg(1))
    _write(tmp_path / "train" / "n01440764" / "._0.JPEG", b"no picture")
    _write(tmp_path / "val" / "n01440764" / "list.txt", b"text")
    parts = read_imagenet(str(tmp_path), 8)
    assert len(parts.parts["train"]) == 2
    assert [note.split(" (")[0] for note in parts.notes] == [
        "val: left out 1 file that is no picture which Pillow reads here"
    ]

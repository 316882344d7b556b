"""Files of arrays as tools write them are read right, and others are refused with a hint that helps."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from robcal.base import checks
from robcal.base.checks import InputError
from robcal.base.storage import save_scores
from robcal.base.types import Scores
from robcal.base.user_files import read_array, read_scores
from robcal.commands.cli import main

PROBS = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0], [0.125, 0.375, 0.5], [0.5, 0.25, 0.25]])
TWO = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5]])
LABELS = np.array([0, 2, 1, 2])


def text(array: np.ndarray, mark: str = ",", head: str | None = None, index: bool = False, end: str = "\n") -> str:
    """Rows as other tools write them: pandas with an index has an empty name first."""
    rows = [([str(number)] if index else []) + [str(value) for value in np.atleast_1d(row)] for number, row in
            enumerate(array)]  # fmt: skip
    lines = ([head] if head is not None else []) + [mark.join(row) for row in rows]
    return end.join(lines) + end


def saved(array: np.ndarray, **options: object) -> str:
    stream = io.StringIO()
    np.savetxt(stream, array, **options)  # type: ignore[arg-type]
    return stream.getvalue()


#: What wrote it → suffix, text, the array in it.
TEXTS: dict[str, tuple[str, str, np.ndarray]] = {
    "no line of names": (".csv", text(PROBS), PROBS),
    "names": (".csv", text(PROBS, head="cat,dog,bird"), PROBS),
    "quoted names with commas": (".csv", text(PROBS, head='"cat, big",dog,"bird"'), PROBS),
    "names twice": (".csv", text(PROBS, head="p,p,p"), PROBS),
    "a name twice that is another's with its number": (".csv", text(PROBS, head="p,p.2,p"), PROBS),
    "names that differ in how an é is written": (".csv", text(PROBS, head="\u00e9,e\u0301,b"), PROBS),
    "pandas without index": (".csv", text(PROBS, head="0,1,2"), PROBS),
    "pandas without index, two classes": (".csv", text(TWO, head="0,1"), TWO),
    "pandas with index": (".csv", text(PROBS, head=",0,1,2", index=True), PROBS),
    "pandas with index and names": (".csv", text(PROBS, head=",a,b,c", index=True), PROBS),
    "pandas with index, saved again": (".csv", text(PROBS, head="Unnamed: 0,a,b,c", index=True), PROBS),
    "one row": (".csv", text(PROBS[:1]), PROBS[:1]),
    "Windows line ends": (".csv", text(PROBS, head="a,b,c", end="\r\n"), PROBS),
    "other separators in a quoted name": (".csv", text(PROBS, head='"cat; big",dog,bird'), PROBS),
    "lists in JSON": (".jsonl", "".join(f'{{"p": {row.tolist()}}}\n' for row in PROBS), PROBS),
    "byte order mark of JSON": (".jsonl", '\ufeff{"p": 0.5}\n{"p": 0.25}\n', np.array([0.5, 0.25])),
    "byte order mark": (".csv", "\ufeff" + text(PROBS, head="a,b,c"), PROBS),
    "byte order mark without names": (".csv", "\ufeff" + text(PROBS), PROBS),
    "semicolons": (".csv", text(PROBS, ";", head="a;b;c"), PROBS),
    "decimal commas": (".csv", text(PROBS, ";").replace(".", ","), PROBS),
    "tabs": (".tsv", text(PROBS, "\t", head="a\tb\tc"), PROBS),
    "no last line end": (".csv", text(PROBS).rstrip(), PROBS),
    "savetxt": (".txt", saved(PROBS), PROBS),
    "savetxt with commas": (".csv", saved(PROBS, delimiter=","), PROBS),
    "savetxt with names": (".csv", saved(PROBS, delimiter=",", header="a,b,c"), PROBS),
    "labels": (".csv", text(LABELS), LABELS),
    "labels with a name": (".csv", text(LABELS, head="label"), LABELS),
    "labels with an index": (".csv", text(LABELS, head=",label", index=True), LABELS),
    "scores called 0 by pandas": (".csv", text(PROBS[:, 0], head="0"), PROBS[:, 0]),
    "labels of savetxt": (".txt", saved(LABELS, fmt="%d"), LABELS),
    "groups": (".csv", "north\nsouth\nnorth\nsouth\n", np.array(["north", "south", "north", "south"])),
    "groups with a name": (".csv", "side\nsouth\nnorth\nsouth\n", np.array(["south", "north", "south"])),
    "yes and no": (".csv", "True\nFalse\nTrue\n", np.array([True, False, True])),
    "a gap in one column": (".csv", "a\n0.5\n\n0.25\n1\n\n", np.array([0.5, np.nan, 0.25, 1])),
    "a gap at the start of one column": (".csv", "a\n\n0.5\n0.25\n1\n", np.array([np.nan, 0.5, 0.25, 1])),
    "a gap in a column of names": (".csv", "a\nx\n\nx\ny\n", np.array(["x", "", "x", "y"])),
    "every second line empty": (".csv", "a\r\r\n0.5\r\r\n0.25\r\r\n1\r\r\n", np.array([0.5, 0.25, 1])),
    "an empty line between rows": (".csv", "a,b\n0.5,0.5\n\n0.25,1\n", np.array([[0.5, 0.5], [0.25, 1]])),
    "a gap": (".csv", "a,b\n0.5,0.5\n,1\n", np.array([[0.5, 0.5], [np.nan, 1]])),
    "a gap in the first row": (".csv", ",0.5\n1,0.5\n", np.array([[np.nan, 0.5], [1, 0.5]])),
}


@pytest.mark.parametrize("writer", TEXTS)
def test_text_is_read_whoever_wrote_it(writer: str, tmp_path: Path) -> None:
    suffix, written, expected = TEXTS[writer]
    file = tmp_path / f"a{suffix}"
    file.write_bytes(written.encode("utf-8"))
    found = checks.as_array(read_array(file, "the array"), "the array")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype.kind == expected.dtype.kind or expected.dtype.kind == "i"


def test_archives_and_tables_say_which_of_their_arrays_is_meant(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", anything=PROBS)
    np.savez_compressed(tmp_path / "both.npz", probs=PROBS, labels=LABELS)
    table = pa.table({"id": [7, 8, 9, 5], "a": PROBS[:, 0], "b": PROBS[:, 1], "c": PROBS[:, 2], "label": LABELS})
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(text(np.column_stack([[7, 8, 9, 5], PROBS]), head="id,a,b,c"))
    np.testing.assert_array_equal(read_array(tmp_path / "one.npz", "the probabilities"), PROBS)
    for name in ("both.npz:probs", "t.parquet:a,b,c", "t.csv:a,b,c"):
        np.testing.assert_array_equal(read_array(tmp_path / name, "the probabilities"), PROBS)
    for name in ("both.npz:labels", "t.parquet:label"):
        np.testing.assert_array_equal(read_array(tmp_path / name, "the labels"), LABELS)
    np.testing.assert_array_equal(read_scores(tmp_path / "t.csv", "b"), PROBS[:, 1])
    np.testing.assert_array_equal(read_scores(tmp_path / "t.csv:b"), PROBS[:, 1])
    np.testing.assert_array_equal(read_scores(tmp_path / "both.npz:labels"), LABELS)


def test_a_file_whose_name_has_a_colon_is_that_file(tmp_path: Path) -> None:
    file = tmp_path / "a.csv:b"
    file.write_text("0.5\n")
    with pytest.raises(InputError, match=r"is a\.csv:b"):
        read_array(file, "the array")


def followed(error: InputError, tmp_path: Path) -> Path:
    """The file that the message names, where it names one with a colon."""
    found = re.search(r"(\S+\.(?:npz|csv|parquet):[^\s,.]+(?:,\w+)*)", str(error).rsplit(". ", 1)[-1])
    assert found, error
    return Path(found[1])


def test_what_is_ambiguous_is_refused_and_the_advice_taken_literally_helps(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", probs=PROBS, labels=LABELS)
    pq.write_table(pa.table({"id": [7, 8, 9, 5], "p": PROBS[:, 0], "q": 1 - PROBS[:, 0]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("name,p,q\nx,0.5,0.5\ny,0.25,0.75\n")
    for name, words, shape in (
        ("both.npz", r"probs \(4, 3\), labels \(4,\)", (4, 3)),
        ("t.parquet", "id cannot belong", (4, 2)),
        ("t.csv", "name cannot belong", (2, 2)),
    ):
        with pytest.raises(InputError, match=words) as refused:
            read_array(tmp_path / name, "the probabilities")
        assert read_array(followed(refused.value, tmp_path), "the probabilities").shape == shape


def test_unknown_names_are_answered_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("p,q\n0.5,0.5\n")
    np.savez(tmp_path / "a.npz", probs=PROBS)
    with pytest.raises(InputError, match=r"no column 'r'.*it has p, q"):
        read_array(tmp_path / "t.csv:r", "the array")
    with pytest.raises(InputError, match=r"no column 'distance'.*it has p, q.*--column"):
        read_scores(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"holds probs \(4, 3\)") as refused:
        read_array(tmp_path / "a.npz:p", "the array")
    assert read_array(followed(refused.value, tmp_path), "the array").shape == (4, 3)


def test_columns_of_parquet_may_be_decimals_lists_and_of_one_name(tmp_path: Path) -> None:
    decimals = [pa.array(column).cast(pa.decimal128(8, 6)) for column in PROBS.T]
    rows = pa.FixedSizeListArray.from_arrays(pa.array(PROBS.ravel()), 3)
    pq.write_table(pa.table({"a": decimals[0], "b": decimals[1], "c": decimals[2]}), tmp_path / "decimals.parquet")
    pq.write_table(pa.table([pa.array(list(PROBS)), rows], names=["p", "p"]), tmp_path / "lists.parquet")
    for chosen in ("decimals.parquet", "lists.parquet:p", "lists.parquet:p.1"):
        found = checks.as_numbers(read_array(tmp_path / chosen, "the probabilities"), "probs")
        np.testing.assert_array_equal(found, PROBS)


@pytest.mark.parametrize(
    ("name", "written", "words"),
    [
        ("a.csv", 'a,b\nx,1\n2,3,"4"\n', r"row 1 of its data has 3 entries, row 0 has 2"),
        ("a.csv", "# made by hand\na,b\n1,2\n", r"its first line has 1 entries, the next has 2"),
        ("a.csv", "a,b\n", r"it has no rows"),
        ("a.jsonl", '{"p": 1, "p": 2}\n', r"a line has one name twice, of p, p"),
        ("a.jsonl", '{"p": 1, "q": 2}\n{"p": "1", "q": 3}\n', r"p holds '1' in row 1"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(name: str, written: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(written)
    with pytest.raises(InputError, match=words):
        read_array(tmp_path / name, "the array")


def test_a_name_is_found_in_either_form_of_its_accents(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("cafe\u0301,b\n0.5,0.25\n")
    np.testing.assert_array_equal(read_array(tmp_path / "t.csv:caf\u00e9", "the array"), [0.5])
    np.testing.assert_array_equal(read_scores(tmp_path / "t.csv", "caf\u00e9"), [0.5])


def objects(file: Path) -> None:
    np.save(file, np.array([[0.5, 0.5], [1.0, 0.0]], dtype=object), allow_pickle=True)


def objects_in_archive(file: Path) -> None:
    np.savez(file, p=np.array([[0.5, 0.5], [1.0, 0.0]], dtype=object))


def half(file: Path) -> None:
    np.save(file, PROBS)
    file.write_bytes(file.read_bytes()[:90])


def tensor(file: Path) -> None:
    torch.save(torch.tensor(PROBS), file)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "objects": (objects, "a.npy", "np.array(array.tolist())"),
    "text called .npy": (lambda file: file.write_text("0.5,0.5\n"), "b.npy", "Give it the suffix"),
    "half of it": (half, "c.npy", "np.save"),
    "no archive": (lambda file: file.write_bytes(b"PK\x03\x04"), "d.npz", "np.save"),
    "objects in an archive": (objects_in_archive, "e.npz", "np.array(array.tolist())"),
    "empty text": (lambda file: file.write_text(""), "f.csv", "np.save"),
    "ragged text": (lambda file: file.write_text("a,b\n1,2\n3\n"), "g.csv", "as many entries as the first"),
    "text of Windows": (lambda file: file.write_text("\u00e9,b\n1,2\n", encoding="latin-1"), "k.csv", "in UTF-8"),
    "text of a spreadsheet": (lambda file: file.write_text("a,b\n1,2\n", encoding="utf-16"), "l.csv", "in UTF-8"),
    "no parquet": (lambda file: file.write_bytes(b"PAR1"), "h.parquet", "np.save"),
    "missing": (lambda file: None, "i.csv", "Check the spelling"),
    "a tensor": (tensor, "probs.pt", "np.save('probs.npy', torch.load('probs.pt')"),
    "a model": (lambda file: file.write_bytes(b"x"), "m.onnx", "run it on the test inputs"),
    "a spreadsheet": (lambda file: file.write_bytes(b"PK"), "s.xlsx", "np.save"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_read_is_refused_and_never_unsafely(damage: str, tmp_path: Path) -> None:
    write, name, advice = DAMAGE[damage]
    write(tmp_path / name)
    with pytest.raises(InputError, match=re.escape(name)) as refused:
        read_array(tmp_path / name, "the array")
    assert advice in str(refused.value)
    assert not re.search("unsafe|allow_pickle", str(refused.value))


def test_the_advice_about_objects_tensors_and_suffixes_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.tensor(PROBS), "probs.pt")
    objects(Path("a.npy"))
    for name, array in (("probs.pt", None), ("a.npy", np.load("a.npy", allow_pickle=True))):
        with pytest.raises(InputError) as refused:
            read_array(Path(name), "the probabilities")
        code = re.search(r"np\.save\(.*\)", str(refused.value))
        assert code
        exec(code[0], {"np": np, "torch": torch, "array": array})
    np.testing.assert_array_equal(read_array(Path("probs.npy"), "the probabilities"), PROBS)
    np.testing.assert_array_equal(read_array(Path("a.npy"), "the probabilities"), [[0.5, 0.5], [1.0, 0.0]])
    Path("t.npy").write_text(text(PROBS))
    with pytest.raises(InputError, match=r"\.csv"):
        read_array(Path("t.npy"), "the probabilities")
    np.testing.assert_array_equal(read_array(Path("t.npy").rename("t.csv"), "the probabilities"), PROBS)


def test_scores_of_robcal_are_read_by_column(tmp_path: Path) -> None:
    zeros = np.zeros(3, np.int64)
    scores = Scores(
        np.array([0.5, np.inf, 0.25], np.float32), np.array(["verified", "censored", "verified"]), zeros, zeros,
        np.array([1, 2, 3], np.float32), np.ones(3, np.float32),
    )  # fmt: skip
    file = save_scores(scores, tmp_path / "s.parquet")
    np.testing.assert_array_equal(read_scores(file), scores.distance)
    np.testing.assert_array_equal(read_scores(file, "margin"), scores.margin)
    np.save(tmp_path / "s.npy", np.arange(3))
    np.testing.assert_array_equal(read_scores(tmp_path / "s.npy"), [0, 1, 2])
    with pytest.raises(InputError, match="column 'status' of"):
        read_scores(file, "status")


def audit_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["audit", *map(str, arguments), "--resamples", "20"])
    return int(stop.value.code or 0)


def test_an_audit_of_one_csv_with_everything_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(3), 60).round(6), rng.integers(3, size=60)
    head, sides = "id,a,b,c,label,side,margin", np.array(["left", "right"])[rng.integers(2, size=60)]
    rows = [
        f"{k},{','.join(map(str, p))},{y},{s},{k / 7}"
        for k, (p, y, s) in enumerate(zip(probs, labels, sides, strict=True))
    ]
    file = tmp_path / "all.csv"
    file.write_text("\n".join([head, *rows]) + "\n")
    assert audit_of("--probs", file, "--labels", f"{file}:label") == 2
    told = capsys.readouterr().err
    assert "id, label, side cannot belong to the probabilities" in told
    chosen = ["--probs", f"{file}:a,b,c", "--labels", f"{file}:label", "--groups", f"{file}:side"]
    assert audit_of(*chosen, "--scores", file, "--column", "margin", "--levels", 4) == 0
    assert "side" in capsys.readouterr().out


def test_a_line_of_names_over_one_of_two_files_only_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.csv").write_text(text(TWO, head="0,1"))
    (tmp_path / "y.csv").write_text("0\n1\n0\n1\n")  # pandas called the column 0: no one can tell
    assert audit_of("--probs", tmp_path / "p.csv", "--labels", tmp_path / "y.csv") == 2
    assert "number 3, labels has 4" in (told := capsys.readouterr().err.replace("\n", " "))
    assert "for data" in told
    (tmp_path / "y.csv").write_text("label\n1\n0\n1\n")
    assert audit_of("--probs", tmp_path / "p.csv", "--labels", tmp_path / "y.csv") == 0


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "model.h5", "model.pkl", "model.keras", "notes", "p.npy"])
def test_a_file_in_place_of_a_run_is_answered_with_what_audit_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("p.npy", PROBS)
    np.save("labels.npy", LABELS)
    if name != "p.npy":
        Path(name).write_bytes(b"\x08\x01")
    assert audit_of(name) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert ("of a model by its name" in told) == name.startswith("model")
    probs, labels = PROBS, LABELS
    for code in re.findall(r"np\.save\([^)]*\)", told):
        exec(code, {"np": np, "probs": probs, "labels": labels})
    command = re.search(r"robcal audit (--probs \S+ --labels \S+?)\.?$", told)
    assert command, told
    assert audit_of(*command[1].replace("FILE", "labels.npy").split()) == 0


def test_a_checkpoint_in_place_of_its_run_is_answered_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert audit_of(tmp_path / "model.safetensors") == 2
    assert f"robcal audit {tmp_path}." in capsys.readouterr().err.replace("\n", "")

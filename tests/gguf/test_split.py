from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import I32, U16, U32, RawFile, Save

from samovar.errors import MalformedGGUF, ModelNotFound, UnsupportedModel
from samovar.gguf import check, read_header


def split(llama: RawFile, directory: Path) -> list[Path]:
    """The model in three files, the way llama.cpp splits it."""
    paths = []
    for number in range(3):
        pairs = llama.pairs if number == 0 else {}
        part = RawFile(dict(pairs), llama.tensors[number * 7 : number * 7 + 7])
        part = part.set("split.no", U16, number).set("split.count", U16, 3)
        part = part.set("split.tensors.count", I32, len(llama.tensors))
        paths.append(directory / f"tiny-{number + 1:05}-of-00003.gguf")
        paths[-1].write_bytes(part.dump())
    return paths


def test_all_parts_make_one_header(llama: RawFile, tmp_path: Path) -> None:
    paths = split(llama, tmp_path)
    header = read_header(paths[0])
    assert [t.name for t in header.tensors] == [t.name for t in llama.tensors]
    assert [part.path for part in header.parts] == paths
    assert header.file_size == sum(path.stat().st_size for path in paths)
    check(header)


def test_missing_parts_are_named(llama: RawFile, tmp_path: Path) -> None:
    paths = split(llama, tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelNotFound, match=r"tiny-00002-of-00003\.gguf is missing"):
        read_header(paths[0])


def test_a_later_part_is_not_a_model(llama: RawFile, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"part 2 of 3 .* tiny-00001-of-00003\.gguf"):
        read_header(split(llama, tmp_path)[1])


def test_a_renamed_first_part_is_refused(llama: RawFile, tmp_path: Path) -> None:
    path = split(llama, tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(MalformedGGUF, match="-00001-of-00003"):
        read_header(path)


def test_a_cut_part_is_named(llama: RawFile, tmp_path: Path) -> None:
    paths = split(llama, tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    with pytest.raises(MalformedGGUF, match=r"00003-of-00003\.gguf is cut short: 100 of its"):
        check(read_header(paths[0]))


@pytest.mark.parametrize("key", ["split.no", "split.count"])
def test_parts_that_contradict_their_names_are_refused(
    llama: RawFile, tmp_path: Path, key: str
) -> None:
    paths = split(llama, tmp_path)
    wrong = RawFile({}, llama.tensors[7:14]).set("split.no", U16, 1).set("split.count", U16, 3)
    paths[1].write_bytes(wrong.set(key, U16, 7).dump())
    with pytest.raises(MalformedGGUF, match="its name says 2 of 3"):
        read_header(paths[0])


def test_the_number_of_a_part_has_its_type(llama: RawFile, tmp_path: Path) -> None:
    paths = split(llama, tmp_path)
    paths[1].write_bytes(RawFile({}, llama.tensors[7:14]).set("split.no", U32, 1).dump())
    with pytest.raises(
        MalformedGGUF, match=r"tiny-00002-of-00003\.gguf: split\.no is of type uint32"
    ):
        read_header(paths[0])


def test_parts_of_different_models_do_not_fit(llama: RawFile, tmp_path: Path) -> None:
    paths = split(llama, tmp_path)
    other = RawFile({}, llama.tensors[7:8]).set("split.no", U16, 1).set("split.count", U16, 3)
    paths[1].write_bytes(other.dump())
    with pytest.raises(MalformedGGUF, match="do not belong together"):
        read_header(paths[0])


def test_an_absurd_number_of_parts_is_refused(llama: RawFile, save: Save) -> None:
    with pytest.raises(MalformedGGUF, match="65535 parts"):
        read_header(save(llama.set("split.count", U16, 65535)))

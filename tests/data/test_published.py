import hashlib
import io
import lzma
import tarfile
import zipfile

import pytest

from palisade.data.files import PublishedFile

PUBLISHED_CONTENT = b"what its publisher wrote"


def checksum(content=PUBLISHED_CONTENT, algorithm="md5"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def file(**changes):
    return PublishedFile(**{"name": "part/x.tsv", "checksum": checksum(), "url": "http://127.0.0.1:9/x.tsv"} | changes)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize(("ending", "stored"), [("", PUBLISHED_CONTENT), (".xz", lzma.compress(PUBLISHED_CONTENT))])
def test_a_folder_holds_it_plain_or_compressed(tmp_path, ending, stored, algorithm):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / f"x.tsv{ending}").write_bytes(stored)
    assert file(checksum=checksum(algorithm=algorithm)).read(str(tmp_path)) == PUBLISHED_CONTENT


@pytest.mark.parametrize(("ending", "stored"), [("", b"other"), (".xz", lzma.compress(b"other"))])
def test_another_content_in_the_folder(tmp_path, ending, stored):
    (tmp_path / f"x.tsv{ending}").write_bytes(stored)
    message = r"x.tsv(\.xz)? has md5 795f3202b17c…, the published file has .{12}…; delete it, and set data.root=null"
    with pytest.raises(ValueError, match=message) as error:
        file(name="x.tsv").read(str(tmp_path))
    assert "\n" not in str(error.value)


def test_what_cannot_be_decompressed(tmp_path):
    (tmp_path / "x.tsv.xz").write_bytes(PUBLISHED_CONTENT)
    with pytest.raises(ValueError, match=r"x.tsv.xz is no .xz file \(.*\); delete it, and set data.root=null$"):
        file(name="x.tsv").read(str(tmp_path))


@pytest.mark.parametrize("root", [None, "empty"])
def test_download_once(publisher, tmp_path, root):
    (publisher.folder / "x.tsv").write_bytes(PUBLISHED_CONTENT)
    wanted = file(url=f"{publisher.url}/x.tsv")
    root = root and str(tmp_path / root)
    assert wanted.read(root) == PUBLISHED_CONTENT
    (publisher.folder / "x.tsv").unlink()
    assert wanted.read(root) == PUBLISHED_CONTENT


def tar_of(name, content):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def zip_of(name, content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(("ending", "pack"), [("tar.gz", tar_of), ("zip", zip_of)])
@pytest.mark.parametrize("member", [None, "other/x.tsv"])
def test_download_of_an_archive(publisher, ending, pack, member):
    packed = pack(member or "part/x.tsv", PUBLISHED_CONTENT)
    (publisher.folder / f"all.{ending}").write_bytes(packed)
    wanted = file(url=f"{publisher.url}/all.{ending}", archive=checksum(packed), member=member)
    assert wanted.read(None) == PUBLISHED_CONTENT
    (publisher.folder / f"all.{ending}").unlink()
    assert wanted.read(None) == PUBLISHED_CONTENT


def test_another_member_in_the_right_archive(publisher):
    packed = zip_of("part/x.tsv", b"other")
    (publisher.folder / "all.zip").write_bytes(packed)
    with pytest.raises(ValueError, match="has md5 795f3202b17c…"):
        file(url=f"{publisher.url}/all.zip", archive=checksum(packed)).read(None)


def test_files_of_one_name_do_not_meet_in_the_cache(publisher):
    for folder, content in (("a", b"1"), ("b", b"2")):
        (publisher.folder / folder).mkdir()
        (publisher.folder / folder / "x.tsv").write_bytes(content)
        assert file(url=f"{publisher.url}/{folder}/x.tsv", checksum=checksum(content)).read(None) == content


def test_another_file_at_the_publisher(publisher):
    (publisher.folder / "x.tsv").write_bytes(b"something else")
    with pytest.raises(OSError, match=r"is not the published file, .*; put the file into a folder and set data.root=<"):
        file(url=f"{publisher.url}/x.tsv").read(None)


def test_no_network(publisher):
    message = r"^part/x.tsv: no answer from http://127.0.0.1:9/x.tsv \(.*\); put the file into a folder and set data"
    with pytest.raises(OSError, match=message):
        file().read(None)

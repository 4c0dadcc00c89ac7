"""What media take in memory, and forms of them that can be given away."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from decoders import MediaWithBytes, Storage, Tensor, ndarray
from mediagate.vllm_plugin.media_values import UnknownValueError, own, size_of

MIB = 1024 * 1024
SMALL = 4096
"""More than all that comes with media: wrappers, metadata, headers."""


def metadata() -> dict[str, Any]:
    return {
        "total_num_frames": 300,
        "fps": 29.97,
        "duration": Fraction(1001, 100),
        "video_backend": "opencv",
        "frames_indices": [0, 150, 299],
        "do_sample_frames": False,
        "colour": None,
    }


def clip(frames: object, original: bytes = b"encoded") -> MediaWithBytes:
    return MediaWithBytes((frames, metadata()), original)


def size_in_bytes(media: object) -> int:
    size_bytes = size_of(media)
    assert size_bytes is not None
    return size_bytes


@pytest.mark.parametrize(
    ("media", "size_bytes"),
    [
        (clip(ndarray(MIB)), MIB),
        (clip(ndarray(MIB), b"x" * MIB), 2 * MIB),
        ((ndarray(MIB), metadata()), MIB),
        ((ndarray(MIB, dtype="float32"), 16000.0), MIB),
        ([ndarray(MIB), ndarray(MIB)], 2 * MIB),
        (Tensor(Storage(MIB)), MIB),
        ({"list": [b"x" * MIB]}, MIB),
        ("x" * MIB, MIB),
    ],
)
def test_size_is_that_of_all_data_and_little_more(media: object, size_bytes: int) -> None:
    assert size_bytes <= size_in_bytes(media) <= size_bytes + SMALL


def test_view_of_a_part_counts_with_the_whole_that_it_keeps_alive() -> None:
    whole = ndarray(MIB)
    part = ndarray(1000, base=ndarray(2000, base=whole))

    assert size_in_bytes(part) == size_in_bytes(whole)
    assert size_in_bytes(ndarray(10, base=b"x" * MIB)) >= MIB
    assert size_in_bytes(ndarray(10, base=Tensor(Storage(MIB)))) >= MIB


def test_what_is_held_by_two_names_counts_once() -> None:
    storage, whole, encoded = Storage(MIB), ndarray(MIB), b"x" * MIB

    assert size_in_bytes([Tensor(storage), Tensor(storage)]) < MIB + SMALL
    assert size_in_bytes([whole, ndarray(10, base=whole)]) < MIB + SMALL
    assert size_in_bytes([encoded, encoded, ndarray(10, base=encoded)]) < MIB + SMALL


@pytest.mark.parametrize(
    "part",
    [
        object(),
        bytearray(10),
        memoryview(b"x"),
        iter(()),
        {1, 2},
        ndarray(8, dtype="object", hasobject=True),
        Tensor(Storage(8), device="cuda"),
        Tensor(Storage(8), layout="torch.sparse_coo"),
        type("Frames", (ndarray,), {})(8),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_is_of_no_known_kind_has_no_size_and_no_second_form(part: object) -> None:
    """A GPU's memory among it: that is vLLM's to budget."""
    for media in (part, [part], {"a": part}, clip(part), MediaWithBytes(part, b"")):
        assert size_of(media) is None
        with pytest.raises(UnknownValueError):
            own(media)


def test_media_that_hold_themselves_are_of_no_known_kind() -> None:
    media: list[object] = []
    media.append(media)

    assert size_of(media) is None


def test_own_form_is_equal_and_shares_nothing_that_can_be_written_to_but_frames() -> None:
    frames = ndarray(8)
    media = MediaWithBytes((frames, metadata()), b"encoded", {"image_mode": "RGB"})

    mine = own(media)

    assert type(mine) is MediaWithBytes
    assert mine == media
    mine.media[1]["fps"] = 24
    mine.media[1]["frames_indices"].append(300)
    assert mine.io_config is not None
    mine.io_config["image_mode"] = "L"
    mine.original_bytes = b""
    assert media == MediaWithBytes((frames, metadata()), b"encoded", {"image_mode": "RGB"})
    assert mine.media[0] is frames


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])
def test_arrays_that_processors_write_to_are_copied(dtype: str) -> None:
    samples = ndarray(8, dtype=dtype)
    tensor = Tensor(Storage(8), dtype=f"torch.{dtype}")

    mine, rate = own((samples, 16000.0))
    mine.data[0] = 1

    assert rate == 16000.0
    assert samples.data == bytes(8)
    assert own(tensor).untyped_storage() is not tensor.untyped_storage()


@pytest.mark.media
def test_images_are_copied(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png", pnginfo=None)
    opened = Image.open(tmp_path / "a.png")
    opened.load()
    for image in (Image.new("RGB", (4, 4), "red"), opened):
        image.info["exif"] = b"Exif"

        mine = own(MediaWithBytes(image, b"encoded")).media
        mine.putpixel((0, 0), (0, 0, 0))
        mine.info["exif"] = b""

        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert image.info["exif"] == b"Exif"


@pytest.mark.media
def test_size_of_an_image_is_what_pillow_takes_for_it() -> None:
    """In a process of its own, where no freed memory is used again, and none of it is given back."""
    modes = ["L", "P", "I;16", "I", "F", "LA", "RGB", "RGBA", "CMYK"]
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURE, *modes], capture_output=True, text=True, check=True
    )

    lines = measured.stdout.splitlines()
    assert len(lines) == len(modes)
    for line in lines:
        mode, told, taken = line.split()
        assert int(told) == pytest.approx(int(taken), rel=0.05), mode


_MEASURE = """
import sys
from pathlib import Path

from PIL import Image

from mediagate.vllm_plugin.media_values import size_of


def resident_bytes():
    # Exactly, as statm is not: it leaves out what each processor has still to add. And no pages of libraries.
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(rollup.partition("Anonymous:")[2].split()[0]) * 1024


kept = []
for mode in ["1", *sys.argv[1:]]:  # the first one pays for what Pillow loads late
    before = resident_bytes()
    # So large that what the allocator and the kernel take beside it, 200 KB and more, does not show.
    kept.append(Image.new(mode, (3001, 3000), 1 if mode == "P" else "white"))
    if kept[1:]:
        print(mode, size_of(kept[-1]), resident_bytes() - before)
"""


@pytest.mark.media
def test_what_came_with_an_image_counts() -> None:
    from PIL import Image

    image = Image.new("L", (1, 1))
    image.info["icc_profile"] = b"x" * MIB

    assert MIB <= size_in_bytes(image) <= MIB + SMALL

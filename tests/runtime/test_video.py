from __future__ import annotations

import math

import av
import numpy as np
import pytest

from aurora_export.errors import IntegrityError, UsageError
from aurora_export.runtime.containers import MAX_FRAME_PIXELS
from aurora_export.runtime.video import Frame, Pictures, open_source, open_video
from handmade_video import index_of

FASTSTART = {"movflags": "faststart"}


def sample(path, **sampling):
    with open_video(path, **sampling) as video:
        frames = list(video)
    return [index_of(frame.pixels) for frame in frames], [frame.time_s for frame in frames], video.warnings


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.mov", "clip.ts"])
def test_one_frame_a_second_by_default(name, make_video):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    indices, times, warnings = sample(make_video(name, codec=codec))
    assert indices == [0, 10, 20]
    assert times == pytest.approx([0, 1, 2], abs=1e-3)
    assert warnings == []


@pytest.mark.parametrize("fps", [0.5, 1, 2.5, 3, 7, 9.99, 10, 11, 400])
def test_an_instant_takes_the_first_frame_at_or_after_it(fps, make_video):
    indices, _, _ = sample(make_video("clip.mp4"), fps=fps)
    instants = [k / fps for k in range(math.ceil(2.4 * fps) + 1)]
    expected = {min((i for i in range(25) if i / 10 >= instant - 1e-9), default=None) for instant in instants}
    assert indices == sorted(expected - {None})


def test_variable_frame_rate(make_video):
    """By time, not by index: after the gap the late frame serves all instants that passed, once."""
    path = make_video("vfr.mkv", 8, times=[0, 1, 2, 3, 45, 46, 52, 58])
    indices, times, _ = sample(path, fps=1)
    assert indices == [0, 4, 6]
    assert times == pytest.approx([0, 4.5, 5.2])


def test_times_count_from_the_first_frame(make_video):
    indices, times, _ = sample(make_video("late.mkv", 12, times=[70 + i for i in range(12)]), fps=1)
    assert indices == [0, 10]
    assert times == pytest.approx([0, 1])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 24, 25, 100])
def test_evenly_spread_frames(num_frames, name, make_video):
    """MP4 knows its frame count; Matroska's packets are counted."""
    indices, _, warnings = sample(make_video(name), num_frames=num_frames)
    assert indices == np.linspace(0, 24, min(25, num_frames)).astype(int).tolist()
    assert warnings == []


def test_frames_are_rgb_of_the_size_in_the_file(make_video):
    with open_video(make_video("clip.mp4", 1)) as video:
        (frame,) = video
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 201)])
def test_odd_sizes(size, make_video):
    with open_video(make_video("odd.mkv", 2, codec="ffv1", pixel_format="yuv444p", size=size)) as video:
        assert [frame.pixels.shape for frame in video] == [(size[1], size[0], 3)]


@pytest.mark.parametrize(
    ("name", "codec"), [("p.png", "png"), ("p.bmp", "bmp"), ("p.tiff", "tiff"), ("p.jpg", "mjpeg")]
)
def test_an_image_is_a_video_of_one_frame(name, codec, make_video):
    pixel_format = {"bmp": "bgr24", "mjpeg": "yuvj444p"}.get(codec, "rgb24")
    path = make_video(name, 1, codec=codec, pixel_format=pixel_format)
    for sampling in ({}, {"fps": 30}, {"num_frames": 8}):
        assert sample(path, **sampling) == ([0], [0.0], [])


@pytest.mark.parametrize("pixel_format", ["gray", "rgba", "rgb24"])
def test_grey_becomes_rgb_and_alpha_is_dropped(pixel_format, make_video):
    with open_video(make_video("p.png", 1, codec="png", pixel_format=pixel_format)) as video:
        (frame,) = video
    assert frame.pixels.shape == (48, 64, 3)
    assert frame.pixels[-1, -1] == pytest.approx(np.array([60, 60, 60]), abs=1)


def test_transparent_pixels_keep_their_colour(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200
    with av.open(str(tmp_path / "p.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
    with open_video(tmp_path / "p.png") as video:
        (frame,) = video
    assert (frame.pixels == [200, 0, 0]).all()


@pytest.mark.parametrize(("rotation", "black_quarter"), [(0, "ul"), (90, "ll"), (180, "lr"), (-90, "ur")])
def test_rotation_is_applied(rotation, black_quarter, make_video):
    """Counter-clockwise, as the metadata has it: the black upper left quarter goes where a player shows it."""
    with open_video(make_video("turned.mp4", 1, rotation=rotation)) as video:
        (frame,) = video
    height, width = frame.pixels.shape[:2]
    assert (width, height) == ((64, 48) if rotation in (0, 180) else (48, 64))
    quarters = {
        "ul": frame.pixels[: height // 2, : width // 2],
        "ur": frame.pixels[: height // 2, width // 2 :],
        "ll": frame.pixels[height // 2 :, : width // 2],
        "lr": frame.pixels[height // 2 :, width // 2 :],
    }
    assert min(quarters, key=lambda name: quarters[name].mean()) == black_quarter


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mirrored_and_turned_videos(orientation, tmp_path):
    """All eight EXIF orientations, against numpy."""
    upright = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16).repeat(3, 1).reshape(8, 16, 3)
    degrees, hflip, vflip = {
        1: (0, False, False),
        2: (0, True, False),
        3: (180, False, False),
        4: (0, False, True),
        5: (90, False, True),
        6: (-90, False, False),
        7: (90, True, False),
        8: (90, False, False),
    }[orientation]
    path = tmp_path / "turned.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 8, "bgr0"
        stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(upright, format="rgb24")))
        container.mux(stream.encode())
    expected = np.rot90(upright, degrees // 90)
    expected = expected[:, ::-1] if hflip else expected
    expected = expected[::-1] if vflip else expected
    with open_video(path) as video:
        (frame,) = video
    np.testing.assert_array_equal(frame.pixels, expected)


def test_orientation_of_a_photo(tmp_path):
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 255
    image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    with open_video(tmp_path / "photo.jpg") as video:
        (frame,) = video
    assert frame.pixels.shape == (32, 16, 3)
    assert frame.pixels[:, -1].mean() > 200 > 50 > frame.pixels[:, 0].mean()


def test_cut_off_in_a_packet(make_video, tmp_path, caplog):
    data = make_video("clip.mp4", 200, options=FASTSTART).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 2 // 3])
    indices, _, warnings = sample(path)
    assert 5 <= len(indices) <= 15
    assert indices == [i % 32 for i in range(0, 10 * len(indices), 10)]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{path}: broken video: 1 packets are damaged and it ends after ")
    assert warnings[0].endswith("decoded frames are used")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == warnings


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_cut_off_between_packets(name, make_video, tmp_path):
    path = make_video(name, 200, options=FASTSTART if name.endswith("mp4") else {})
    with av.open(str(path)) as container:
        position = [packet.pos for packet in container.demux(video=0) if packet.size][100]
    cut = tmp_path / name
    cut.write_bytes(path.read_bytes()[:position])
    with open_video(cut) as video:
        assert len(list(video)) == 10
    assert video.warnings == [f"{cut}: broken video: it ends after 10.0 s of 20.0 s; the 100 decoded frames are used"]


def test_damage_in_the_middle_is_skipped(make_video, tmp_path):
    path = make_video("clip.mp4", 200, options=FASTSTART)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        position = [packet.pos for packet in container.demux(video=0) if packet.size][50]
    data[position : position + 60] = bytes(255 - byte for byte in data[position : position + 60])
    (tmp_path / "hurt.mp4").write_bytes(data)
    with open_video(tmp_path / "hurt.mp4") as video:
        assert len(list(video)) >= 18
    assert "packets are damaged; the" in video.warnings[0]


def test_nothing_can_be_decoded(make_video, tmp_path):
    path = make_video("clip.mp4", 5, options=FASTSTART)
    with av.open(str(path)) as container:
        positions = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in positions:
        data[position : position + size] = b"\xff" * size
    (tmp_path / "gone.mp4").write_bytes(data)
    with open_video(tmp_path / "gone.mp4") as video, pytest.raises(IntegrityError) as caught:
        list(video)
    assert caught.value.message == f"{tmp_path}/gone.mp4: not one frame can be decoded; 5 packets are damaged"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am a letter\n" * 50,
        b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile clip.mp4\n",
        b"\x00\x00\x00\x18ftypmp42" + bytes(100),
    ],
    ids=["empty", "text", "play-list", "script", "stub"],
)
def test_not_a_video(content, make_video, tmp_path):
    """Play lists and scripts would make FFmpeg open other files."""
    (tmp_path / "clip.mp4").write_bytes(make_video("clip.mp4").read_bytes())
    path = tmp_path / "thing.mp4"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        open_video(path)
    assert caught.value.message == f"{path}: not a video"


@pytest.mark.parametrize("sampling", [{}, {"num_frames": 3}])
def test_a_video_without_frames(sampling, tmp_path):
    path = tmp_path / "header.y4m"
    path.write_bytes(b"YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C420jpeg\n")
    with pytest.raises(IntegrityError) as caught, open_video(path, **sampling) as video:
        list(video)
    assert caught.value.message == f"{path}: the video has no frames"


def test_sound_only(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(IntegrityError) as caught:
        open_video(path)
    assert caught.value.message == f"{path}: has no video stream, only audio"


def test_a_header_that_announces_huge_frames(tmp_path):
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W16384 H8192 F10:1 Ip A1:1 C420jpeg\n")
    with pytest.raises(IntegrityError) as caught:
        open_video(path)
    assert caught.value.message == f"{path}: frames of 134217728 pixels, over the limit of {MAX_FRAME_PIXELS}"


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UsageError, match="nothing\\.mp4: no such file"):
        open_video(tmp_path / "nothing.mp4")
    with pytest.raises(UsageError, match="is a folder, not a video file"):
        open_video(tmp_path)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"fps": 1, "num_frames": 2}, "fps and num_frames exclude each other"),
        ({"fps": 0}, "fps is 0; it must be over 0 and at most 1000"),
        ({"fps": -1.0}, "fps is -1.0; it must be over 0 and at most 1000"),
        ({"fps": math.nan}, "fps is nan; it must be over 0 and at most 1000"),
        ({"fps": math.inf}, "fps is inf; it must be over 0 and at most 1000"),
        ({"num_frames": 0}, "num_frames is 0; it must be from 1 to 1000000"),
    ],
)
def test_bad_sampling(sampling, message, make_video):
    with pytest.raises(UsageError) as caught:
        open_video(make_video("clip.mp4", 1), **sampling)
    assert caught.value.message == message


def test_pictures_are_used_as_given():
    picture = np.zeros((2, 2, 3), np.uint8)
    assert list(open_source([picture, Frame(picture, 2.0)])) == [Frame(picture, None), Frame(picture, 2.0)]
    assert isinstance(open_source(iter([picture])), Pictures)
    with pytest.raises(UsageError, match="fps and num_frames choose frames of a file"):
        open_source([picture], fps=1)


def test_files_are_closed(make_video):
    """Also when the frames were not all taken; an open file would be a ResourceWarning, which is an error here."""
    with open_video(make_video("clip.mp4")) as video:
        next(iter(video))

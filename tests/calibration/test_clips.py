"""Clips in: folders, lists, and what is neither."""

import pytest

from aurora_export.calibration.clips import DEFAULT_PROMPT, Clip, Showing, data_digest, read_clips
from aurora_export.errors import EXIT_USAGE, UsageError


def test_a_folder_by_name(clip_folder):
    clips = read_clips(clip_folder)
    assert [clip.video.name for clip in clips] == [f"{i}.mp4" for i in range(6)]
    assert {clip.prompt for clip in clips} == {DEFAULT_PROMPT}


def test_a_list_by_line(clip_folder, tmp_path):
    (tmp_path / "clips").symlink_to(clip_folder)
    path = tmp_path / "clips.jsonl"
    path.write_text(
        '{"video": "clips/3.mp4", "prompt": "What?", "answer": "a", "kind": "b"}\n\n{"video": "clips/1.mp4"}\n'
    )
    expected = [Clip(tmp_path / "clips/3.mp4", "What?"), Clip(tmp_path / "clips/1.mp4", DEFAULT_PROMPT)]
    assert read_clips(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no clips"),
        ('{"video": "a.mp4"}\n', "holds one clip; ranges from it would fit that clip and no other"),
        ("a.mp4\n", "line 1: not valid JSON"),
        ('{"clip": "a.mp4"}\n', "line 1: no object with `video` and `prompt`"),
        ('{"video": "a.mp4", "prompt": " "}\n', "line 1: no object with"),
        ('{"video": "a.mp4", "prompt": 3}\n', "line 1: no object with"),
        ('{"video": "a.mp4"}\n{"video": "b.mp4"}\n', "line 2: DIR/b.mp4: no such file"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "a.mp4").write_bytes(b"")
    path = tmp_path / "clips.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_clips(path)
    assert message in caught.value.message.replace(str(tmp_path), "DIR")
    assert (caught.value.exit_code == EXIT_USAGE and caught.value.hint) or "no such file" in message


def test_bad_folders(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_clips(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="holds no clips"):
        read_clips(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match="holds one clip"):
        read_clips(tmp_path)


def test_digest_is_of_contents_prompts_order_and_showing(clip_folder, tmp_path):
    clips, showing = read_clips(clip_folder)[:2], Showing()
    digest = data_digest(clips, showing)
    copied = tmp_path / "another_name.mp4"
    copied.write_bytes(clips[0].video.read_bytes())
    assert data_digest([Clip(copied), clips[1]], showing) == digest
    others = [
        data_digest(clips[::-1], showing),
        data_digest(clips, Showing(num_frames=4)),
        data_digest([Clip(clips[0].video, "Why?"), clips[1]], showing),
    ]
    assert len({digest, *others}) == 4


def test_clips_come_in_sequences_of_one_state():
    showing = Showing(clips_per_sequence=3)
    assert [showing.is_first(i) for i in range(7)] == [True, False, False, True, False, False, True]
    with pytest.raises(UsageError, match="num_frames is 0"):
        Showing(num_frames=0)

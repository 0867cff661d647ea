from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import av
import pytest

from aurora_export.cli.answers import without_leading_space
from aurora_export.runtime.session import Aurora
from handmade_bundle import FILES
from handmade_video import write_video

PROMPT = ("--prompt", "What moves?")


@pytest.fixture
def expected(bundle, clip):
    """The answer by the Python API."""

    def answer(**sampling):
        with Aurora.open(bundle) as aurora:
            aurora.watch(clip, prompt=PROMPT[1], **sampling)
            return "".join(aurora.ask(PROMPT[1], max_tokens=9)).lstrip()

    return answer


def test_the_answer_goes_to_stdout(bundle, clip, invoke, expected):
    result = invoke("run", bundle, clip, *PROMPT, "--max-tokens", 9)
    assert result.exit_code == 0
    assert result.stdout == expected() + "\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("open the bundle: ")
    assert lines[1].startswith("watch the video: ")
    assert lines[2].startswith("3 frames, 27 visual tokens, 9 answer tokens; open ")


@pytest.mark.parametrize("sampling", [{"fps": 5.0}, {"num_frames": 4}])
def test_frames_to_watch(sampling, bundle, clip, invoke, expected):
    ((name, value),) = sampling.items()
    for flag in (f"--{name}", f"--{name.replace('_', '-')}"):
        result = invoke("run", bundle, clip, *PROMPT, "--max-tokens", 9, flag, value)
        assert result.stdout == expected(**sampling) + "\n"


@pytest.mark.parametrize(
    ("pieces", "shown"), [([" ", "\n red", " ball "], ["red", " ball "]), (["red"], ["red"]), ([" "], []), ([], [])]
)
def test_an_answer_begins_with_a_character(pieces, shown):
    assert list(without_leading_space(pieces)) == shown


def test_frames_ahead_change_nothing(bundle, clip, invoke, expected):
    for n_ahead in (0, 3):
        result = invoke("run", bundle, clip, *PROMPT, "--max-tokens", 9, "--ahead", n_ahead)
        assert (result.exit_code, result.stdout) == (0, expected() + "\n")


def test_one_json_object(bundle, clip, invoke, expected):
    result = invoke("run", bundle, clip, *PROMPT, "--max-tokens", 9, "--json")
    summary = json.loads(result.stdout)
    assert summary["answer"] == expected()
    assert summary["prompt"] == PROMPT[1]
    assert summary["answer_end"] == "length"
    assert (summary["n_frames"], summary["n_visual_tokens"], summary["n_answer_tokens"]) == (3, 27, 9)
    assert set(summary["seconds"]) == {"open", "decode", "resize", "vision", "prefill", "question", "answer"}
    assert summary["warnings"] == []


def test_quiet(bundle, clip, invoke):
    assert invoke("run", bundle, clip, *PROMPT, "--max-tokens", 2, "-q").stderr == ""
    assert "opened" in invoke("run", bundle, clip, *PROMPT, "--max-tokens", 2, "-v").stderr


def test_sampling_flags_change_the_answer(bundle, clip, invoke):
    def answer(*flags):
        return invoke("run", bundle, clip, *PROMPT, "--max-tokens", 12, *flags).stdout

    greedy = answer()
    assert answer("--temperature", 0) == greedy
    hot = [answer("--temperature", 60, "--seed", seed) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]
    assert answer("--temperature", 60, "--top-k", 1) == greedy
    assert answer("--temperature", 60, "--top-p", 1e-9) == greedy
    assert answer("--frequency-penalty", 1e6) != greedy
    assert answer("--presence-penalty", 1e6) != greedy


def test_an_image(bundle, tmp_path, invoke):
    path = write_video(tmp_path / "p.png", 1, codec="png", pixel_format="rgb24")
    result = invoke("run", bundle, path, *PROMPT, "--max-tokens", 2, "--json")
    assert json.loads(result.stdout)["n_frames"] == 1


def test_a_broken_tail_is_used_with_a_warning(bundle, clip, tmp_path, invoke):
    path = write_video(tmp_path / "long.mp4", 100, options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        position = [packet.pos for packet in container.demux(video=0) if packet.size][50]
    path.write_bytes(path.read_bytes()[:position])
    result = invoke("run", bundle, path, *PROMPT, "--max-tokens", 2, "--json")
    assert result.exit_code == 0
    (warning,) = json.loads(result.stdout)["warnings"]
    assert re.fullmatch(
        re.escape(f"{path}: broken video: ") + r"it ends after [45]\.\d s of 10\.0 s; the \d\d decoded frames are used",
        warning,
    )
    assert f"warning: {warning}\n" in result.stderr
    assert json.loads(result.stdout)["n_frames"] in (5, 6)


def test_not_a_video(bundle, tmp_path, refused):
    (tmp_path / "letter.mp4").write_text("dear all")
    assert refused("run", bundle, tmp_path / "letter.mp4", *PROMPT) == (f"{tmp_path}/letter.mp4: not a video", 4)


def test_a_video_without_frames(bundle, tmp_path, refused):
    path = tmp_path / "header.y4m"
    path.write_bytes(b"YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C420jpeg\n")
    assert refused("run", bundle, path, *PROMPT) == (f"{path}: the video has no frames", 4)


def test_a_missing_video(bundle, refused):
    assert refused("run", bundle, "nothing.mp4", *PROMPT) == ("nothing.mp4: no such file", 2)


def test_a_missing_bundle(clip, refused):
    assert refused("run", "nothing.aurora", clip, *PROMPT) == ("nothing.aurora: no such bundle", 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--fps", 1, "--num-frames", 4), "--fps and --num-frames exclude each other"),
        (("--fps", 0), "fps is 0.0; it must be over 0 and at most 1000"),
        (("--fps", "nan"), "fps is nan; it must be over 0 and at most 1000"),
        (("--num-frames", 0), "num_frames is 0; it must be from 1 to 1000000"),
        (("--max-tokens", 0), "--max-tokens is 0; at least 1 is needed"),
        (("--temperature", -1), "temperature is -1.0; it must be a number 0 or more"),
        (("--top-p", 0), "top_p is 0.0; it must be a number over 0 and at most 1"),
        (("--top-k", -1), "top_k is -1; it must be a whole number 0 or more"),
        (("--seed", -1), "seed is -1; it must be a whole number from 0 to 2^64 - 1"),
        (("--threads", 0), "threads is 0; at least 1 is needed"),
        (("--ahead", -1), "-1 frames ahead; 0 to 64 are possible"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--prompt", " "), "the question is empty"),
    ],
)
def test_bad_flag_values(flags, message, bundle, clip, refused):
    assert refused("run", bundle, clip, *PROMPT, *flags) == (message, 2)


@pytest.mark.parametrize("role", sorted(FILES))
def test_a_flipped_byte(role, bundle_copy, clip, refused):
    path = bundle_copy / FILES[role]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)
    message, code = refused("run", bundle_copy, clip, *PROMPT)
    assert message.startswith(f"{path}: SHA-256 is ")
    assert code == 4


@pytest.mark.parametrize("role", sorted(FILES))
def test_a_missing_file(role, bundle_copy, clip, refused):
    (bundle_copy / FILES[role]).unlink()
    assert refused("run", bundle_copy, clip, *PROMPT) == (f"{bundle_copy}: {FILES[role]} is missing", 4)


def edited(bundle, **changes):
    content = json.loads((bundle / "manifest.json").read_text())
    content.update(changes)
    (bundle / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("path", ["/etc/hostname", "../other/vision.onnx", "onnx/../../x", "C:\\x", "", "onnx//x"])
def test_a_path_that_leaves_the_bundle(path, bundle_copy, clip, refused):
    edited(bundle_copy, files={**FILES, "vision": path})
    message, code = refused("run", bundle_copy, clip, *PROMPT)
    assert message == f"{bundle_copy}/manifest.json: {path!r} is not a plain path inside the bundle"
    assert code == 4


def test_a_link_that_leaves_the_bundle(bundle_copy, tmp_path, clip, refused):
    path = bundle_copy / FILES["language"]
    path.rename(tmp_path / "language.onnx")
    path.symlink_to(tmp_path / "language.onnx")
    message, code = refused("run", bundle_copy, clip, *PROMPT)
    assert (message, code) == (f"{path}: a bundle holds plain files and folders only, no links", 4)


def test_an_unknown_major_version(bundle_copy, clip, refused):
    edited(bundle_copy, schema_version="2.0")
    message, code = refused("run", bundle_copy, clip, *PROMPT)
    assert message == f"{bundle_copy}/manifest.json: schema_version is 2.0; this version reads 1.x"
    assert code == 3


def test_interrupted_in_the_answer(bundle, clip):
    """Ctrl-C ends a run with 130, what was said so far, and no traceback."""
    command = [sys.executable, "-m", "aurora_export", "run", bundle, clip, *PROMPT, "--max-tokens", "100000000"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        assert process.stdout.read(1)  # the answer has begun
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr.decode()


@pytest.mark.parametrize("module", ["onnxruntime", "av"])
def test_a_missing_package(module, bundle, clip):
    program = f"import sys; sys.modules[{module!r}] = None; from aurora_export.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "run", str(bundle), str(clip), *PROMPT]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 7
    assert "cannot be imported" in process.stderr
    assert "hint: pip install " in process.stderr

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from aurora_export.runtime.session import Aurora
from endless_file import make_endless, wait_until_read
from handmade_bundle import handmade_config, write_bundle

ASKED = ("--question", "What moves?", "--max-tokens", 6, "--threads", 1)


@pytest.fixture
def folder(clip, tmp_path):
    """Three videos, two of them the same, and a list of them and of two that cannot be watched."""
    shutil.copy(clip, tmp_path / "a.mp4")
    shutil.copy(clip, tmp_path / "b.mp4")
    (tmp_path / "bad.mp4").write_text("dear all")
    (tmp_path / "list.txt").write_text("# videos\na.mp4\n\nbad.mp4\nb.mp4\nno.mp4\na.mp4\n")
    return tmp_path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_list(bundle, folder, clip, invoke):
    out = folder / "out.jsonl"
    result = invoke("batch", bundle, folder / "list.txt", *ASKED, "--out", out, "--workers", 2)
    assert result.exit_code == 4
    assert result.stdout.startswith(f"{out}: 4 videos, ")
    assert result.stdout.endswith(", 2 failed; their lines have `error`\n")
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(clip)
        answer = "".join(aurora.ask("What moves?", max_tokens=6)).strip()
    found = {row["video"]: row for row in rows(out)}
    assert set(found) == {"a.mp4", "b.mp4", "bad.mp4", "no.mp4"}
    assert (found["a.mp4"]["answer"], found["b.mp4"]["answer"]) == (answer, answer)
    assert found["bad.mp4"]["error"] == f"{folder}/bad.mp4: not a video"
    assert found["no.mp4"]["exit_code"] == 2


def test_again_asks_only_what_is_new(bundle, folder, invoke):
    out = folder / "out.jsonl"
    (folder / "list.txt").write_text("a.mp4\n")
    assert invoke("batch", bundle, folder / "list.txt", *ASKED, "-o", out).exit_code == 0
    first = out.read_bytes()
    again = invoke("batch", bundle, folder / "list.txt", *ASKED, "-o", out, "--json")
    assert json.loads(again.stdout) == {
        "answers": str(out),
        "n_videos": 1,
        "n_answered": 0,
        "n_known": 1,
        "n_failed": 0,
        "exit_codes": [],
    }
    assert out.read_bytes() == first
    (folder / "list.txt").write_text("b.mp4\n")
    more = invoke("batch", bundle, folder / "list.txt", *ASKED, "--question", "How many?", "-o", out)
    assert "1 answered, 0 known" in more.stdout
    assert [(row["video"], row["question"]) for row in rows(out)] == [
        ("a.mp4", "What moves?"),
        ("b.mp4", "What moves?"),
        ("b.mp4", "How many?"),
    ]
    invoke("batch", bundle, folder / "list.txt", *ASKED, "--fps", 4, "-o", out)
    assert rows(out)[-1]["n_frames"] == 10, "other settings are another answer"


def test_killed_and_gone_on(bundle, folder, invoke):
    """kill -9 inside the second video: the first one's answer stays, and is not asked again."""
    out = folder / "out.jsonl"
    endless = make_endless(folder / "endless.mp4")
    (folder / "list.txt").write_text("a.mp4\nendless.mp4\n")
    command = [sys.executable, "-m", "aurora_export", "batch", bundle, folder / "list.txt", *map(str, ASKED), "-o", out]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until_read(endless)
        os.killpg(process.pid, signal.SIGKILL)
    first = out.read_bytes()
    assert [row["video"] for row in rows(out)] == ["a.mp4"]
    out.write_bytes(first + b'{"video": "endless')
    (folder / "list.txt").write_text("a.mp4\nb.mp4\n")
    result = invoke("batch", bundle, folder / "list.txt", *ASKED, "-o", out)
    assert "0 answered, 2 known before, 0 failed" in result.stdout
    assert out.read_bytes().startswith(first)
    assert [row["video"] for row in rows(out)] == ["a.mp4", "b.mp4"]


def test_interrupted(bundle, folder):
    out = folder / "out.jsonl"
    endless = make_endless(folder / "endless.mp4")
    (folder / "list.txt").write_text("a.mp4\nendless.mp4\n")
    command = [sys.executable, "-m", "aurora_export", "batch", bundle, folder / "list.txt", *map(str, ASKED), "-o", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        wait_until_read(endless)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (stdout, stderr.decode().splitlines()[-1]) == (b"", "interrupted")
    assert b"Traceback" not in stderr
    assert len(rows(out)) == 1


def test_prime(bundle, folder, clip, invoke):
    (folder / "list.txt").write_text("a.mp4\n")
    invoke("batch", bundle, folder / "list.txt", *ASKED, "--prime", "-o", folder / "out.jsonl")
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(clip, prompt="What moves?")
        assert rows(folder / "out.jsonl")[0]["answer"] == "".join(aurora.ask("What moves?", max_tokens=6)).strip()


def test_refusals(bundle, folder, tmp_path, refused):
    out = folder / "out.jsonl"
    (folder / "empty.txt").write_text("# nothing\n\n")

    def refusal(*args, video_list="list.txt"):
        return refused("batch", bundle, folder / video_list, "-o", out, *args)

    assert refusal() == ("no question", 2)
    assert refusal(*ASKED, video_list="empty.txt") == (f"{folder}/empty.txt: names no video", 2)
    assert refusal("--questions", folder / "empty.txt", video_list="empty.txt")[0].endswith("names no video")
    (folder / "none.txt").write_text("\n")
    assert refusal("--questions", folder / "none.txt") == (f"{folder}/none.txt: holds no question", 2)
    assert refusal(*ASKED, video_list="no.txt")[0].startswith(f"{folder}/no.txt: cannot be read")
    assert refusal(*ASKED, "--workers", 0) == ("--workers is 0; at least 1 is needed", 2)
    assert refusal(*ASKED, "--ray-address", "x") == ("--ray-address is for --engine ray", 2)
    assert refusal(*ASKED, "--fps", 0)[1] == 2
    assert refusal(*ASKED, "--engine", "dask")[0].startswith("invalid value for '--engine': 'dask'")
    assert not out.exists()
    out.write_text("my notes\n")
    assert refusal(*ASKED) == (f"{out}, line 1: is no answer of a batch", 4)
    assert out.read_text() == "my notes\n"
    image_first = write_bundle(tmp_path / "i.aurora", handmade_config(prompt={"sandwich": "image_first"}))
    message, _ = refused("batch", image_first, folder / "list.txt", *ASKED, "--prime", "-o", tmp_path / "i.jsonl")
    assert message.startswith("--prime: this model reads no question before the frames")


def test_ray_is_not_there(bundle, folder):
    (folder / "list.txt").write_text("a.mp4\n")
    program = "import sys; sys.modules['ray'] = None; from aurora_export.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "batch", bundle, folder / "list.txt", *map(str, ASKED), "--engine", "ray"]
    process = subprocess.run([*command, "-o", folder / "o.jsonl"], capture_output=True, text=True, check=False)
    assert process.returncode == 7
    assert "hint: pip install 'aurora-export[ray]'" in process.stderr

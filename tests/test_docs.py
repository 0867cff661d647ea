"""The documents say what is so: links resolve, code blocks run, and what they print is what was promised.

A block (```sh, ```console or ```python) under a line `<!-- not run: reason -->` is left out; nothing else is.
In a console block the lines after `$ command` are its output; `...` stands for anything, and measured numbers
(those with a decimal point or a unit) may differ.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_export import __version__
from aurora_export.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, read_manifest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")] if "build" not in path.parts)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?^```(sh|console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
MEASURED = re.compile(r"\d+\.\d+(e[+-]?\d+)?|\d+(?= ?(ms|s|kB|KiB|MB|MiB|GB|GiB|%)(\W|$))")
# Written so that this line is not itself such a path.
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(work|root|home/\w+|Users/\w+|opt/wheels)/")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    found: dict[str, int] = {}
    for line in FENCE.sub("", document.read_text(encoding="utf-8")).splitlines():
        if line.startswith("#"):
            title = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip()).lower()
            slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{i}" if i else slug for slug, n in found.items() for i in range(n + 1)}


def broken_links(document: Path) -> list[str]:
    """Return the relative links of a document that lead to no file or to no heading."""
    broken = []
    for match in LINK.finditer(FENCE.sub("", document.read_text(encoding="utf-8"))):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    return broken


def commands_of(kind: str, block: str) -> list[tuple[str, str | None]]:
    """Return the shell commands of a block, each with the output that a console block promises for it."""
    if kind == "sh":
        return [(block, None)]
    if kind == "python":
        return [(f"python - <<'END_OF_BLOCK'\n{block}END_OF_BLOCK\n", None)]
    steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
    assert not steps[0].strip(), "a console block begins with `$ command`"
    pairs = []
    for step in steps[1:]:
        match = re.match(r"(.*?[^\\]\n)(.*)", step, re.DOTALL)  # a line that ends in a backslash goes on
        assert match, step
        pairs.append((match[1], match[2]))
    return pairs


def as_promised(promised: str, printed: str) -> bool:
    promised, printed = (MEASURED.sub("<measured>", text) for text in (promised, printed))
    return doctest.OutputChecker().check_output(promised, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_relative_links_resolve(document):
    assert not broken_links(document)


def test_a_broken_link_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n[ok](page.md#a-b-c) [gone](gone.md) [no heading](#nowhere) [web](https://example.org)\n"
    )
    assert broken_links(page) == ["gone.md", "#nowhere"]


def test_promised_output_is_compared():
    assert as_promised("frames 4.1 s\n...\nred\n", "frames 12.25 s\nlanguage 3 ms\nred\n")
    assert not as_promised("frames 4.1 s\nred\n", "frames 4.1 s\nblue\n")
    assert not as_promised("3 shapes\n", "4 shapes\n")


@pytest.fixture
def clone(tree, tmp_path) -> Path:
    """A copy of the repository as a newcomer has it: nothing built, nothing left over."""
    for path in tree:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def test_readme_blocks_do_what_the_readme_says(clone):
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    readme = (clone / "README.md").read_text(encoding="utf-8")
    for match in RUN_BLOCK.finditer(readme):
        not_run, kind, block = match.groups()
        for command, promised in [] if not_run else commands_of(kind, block):
            process = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=clone,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert process.returncode == 0, f"{command}\n{process.stdout}"
            if promised is not None:
                assert as_promised(promised, process.stdout), f"{command}\n{process.stdout}"


def test_tables_are_those_of_the_result_files(root):
    command = [sys.executable, "benchmarks/report.py", "--check"]
    process = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 0, f"{process.stdout}: python benchmarks/report.py"


def test_changelog_has_the_version_and_its_sections(root):
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles[0] == "Unreleased" or titles[0].startswith(__version__)
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {"Added", "Changed", "Fixed", "Removed"}


def test_bundle_example_loads_with_the_real_reader(root, tmp_path):
    text = (root / "docs" / "BUNDLE.md").read_text(encoding="utf-8")
    (example,) = [body for kind, body in FENCE.findall(text) if kind == "json" and "schema_version" in body]
    (tmp_path / MANIFEST_NAME).write_text(example, encoding="utf-8")
    assert read_manifest(tmp_path).schema_version == SCHEMA_VERSION
    assert set(json.loads(example)) == set(Manifest.model_fields), "the example shows every key"


def test_no_file_names_a_path_of_one_machine(root, tree):
    found = []
    for path in tree:
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and clips
        found += [f"{path}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert not found

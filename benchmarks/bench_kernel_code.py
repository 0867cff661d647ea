"""The machine code of both CUDA forms of `Wkv6`, counted: registers, instructions and modelled cycles for a token.

    pip install nvidia-cuda-nvdisasm nvidia-cuda-cuobjdump
    python benchmarks/bench_kernel_code.py --nvdisasm PATH

Nothing runs on a GPU. Cycles are a model of one warp alone: it issues in order, with the stalls and the waits that are
encoded in the instructions, and the latencies below for what is waited for. Memory is taken to have answered in time.
Needs nvcc on PATH. Writes benchmarks/results/kernel_code.json.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from environment import ROOT, write_result

DEVICES = {"Orin AGX": ("87", 16), "H100": ("90", 132)}
"""Device -> architecture, multiprocessors."""

N_HEADS = 32
FORMS = {"recurrent": ("wkv6_kernel.cu", "wkv6_chunkI", 4), "tensor": ("wkv6_tensor_kernel.cu", "wkv6_tensorI", 0)}
"""Form -> source, how its kernels' names begin, blocks of a head (0: by the name)."""

TILE_TOKENS, TURN_TOKENS = 8, 16
"""Tokens of the outer loop of either form."""

LATENCY = {"SHFL": 24, "LDS": 29, "MUFU": 24, "LDG": 0, "STS": 12, "BAR": 30, "S2R": 20}
"""Cycles until a result is there, as published microbenchmarks have them, about; others 10."""

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?);\s*/\* 0x[0-9a-f]{16} \*/")
CONTROL = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/")


@dataclass
class Kernel:
    """The instructions of a kernel, with their control bits, and the places of its labels."""

    instructions: list[tuple[str, int]]
    labels: dict[str, int]

    def loops(self) -> list[list[tuple[str, int]]]:
        """Bodies of the loops, the longest first; without those that are a few instructions."""
        found = []
        for i, (text, _) in enumerate(self.instructions):
            target = re.search(r"\bBRA(?:\.\w+)* .*?`\(([^)]+)\)", text)
            if target and self.labels.get(target[1], i) < i - 20:
                found.append(self.instructions[self.labels[target[1]] : i + 1])
        return sorted(found, key=len, reverse=True)


def kernels_of(listing: str) -> dict[str, Kernel]:
    """Kernel by name, from what nvdisasm -hex prints."""
    found: dict[str, Kernel] = {}
    kernel, text = Kernel([], {}), ""
    for line in listing.splitlines():
        if name := re.match(r"\.text\.(\S+):", line):
            kernel = found[name[1]] = Kernel([], {})
        elif label := re.match(r"(\.L_x_\d+):", line):
            kernel.labels[label[1]] = len(kernel.instructions)
        elif instruction := INSTRUCTION.search(line):
            text = instruction[1]
        elif (control := CONTROL.match(line)) and text:
            kernel.instructions.append((text, int(control[1], 16) >> 41))
            text = ""
    return found


def operation(text: str) -> str:
    """Of an instruction, without its predicate."""
    return re.sub(r"^@!?U?P\w+ ", "", text).split()[0].split(".")[0]


def cycles(body: list[tuple[str, int]], n_turns: int = 20) -> float:
    """Of one turn of a loop by a warp that is alone, once it has settled."""
    time, ready, middle = 0, [0] * 6, 0
    for turn in range(n_turns):
        middle = time if turn == n_turns // 2 else middle
        for text, control in body:
            stall, written, read, wait = control & 15, control >> 5 & 7, control >> 8 & 7, control >> 11 & 63
            time = max(time, *(ready[i] if wait >> i & 1 else 0 for i in range(6)))
            latency = LATENCY.get(operation(text), 10)
            if written < 6:
                ready[written] = max(ready[written], time + latency)
            if read < 6:
                ready[read] = max(ready[read], time + 8)
            time += max(stall, 1) + (latency if operation(text) == "BAR" else 0)
    return (time - middle) / (n_turns - n_turns // 2)


def of_a_token(form: str, loops: list[list[tuple[str, int]]]) -> tuple[float, float]:
    """Instructions and cycles of a warp for one token."""
    counted = [(float(len(body)), cycles(body)) for body in loops]
    if form == "tensor":
        return counted[0][0] / TURN_TOKENS, counted[0][1] / TURN_TOKENS
    # The loop over a tile, in which that over some tokens stands once, and their remainder, about as long a token.
    inside = sum(operation(text) == "SHFL" for text, _ in loops[1]) / 3  # tokens: each has three shuffles
    more = TILE_TOKENS / inside - 1 - (inside - 1) / inside
    n_instructions, n_cycles = ((outer + more * inner) / TILE_TOKENS for outer, inner in zip(*counted[:2], strict=True))
    return n_instructions, n_cycles


def measure(architecture: str, form: str, nvdisasm: Path, folder: Path) -> list[dict[str, Any]]:
    """A row for each kernel of a form in float16 and float32."""
    source, name, n_slices = FORMS[form]
    binary = folder / f"{form}_{architecture}.cubin"
    target = f"arch=compute_{architecture},code=sm_{architecture}"
    command = ["nvcc", "-std=c++17", "-O3", "-Xptxas", "-v", "-gencode", target, "-cubin"]
    command += [str(ROOT / "plugins/wkv" / source), "-o", str(binary)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    told = r"entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    told += r".*?Used (\d+) registers.*?(\d+) bytes smem"
    told_of = {match[0]: [int(number) for number in match[1:]] for match in re.findall(told, said, re.DOTALL)}
    listing = subprocess.run([nvdisasm, "-c", "-hex", binary], capture_output=True, text=True, check=True).stdout
    rows = []
    for full_name, kernel in kernels_of(listing).items():
        short = full_name.partition(name)[2]
        dtype = {"f": "float32", "6": "float16"}.get(short[:1])
        if dtype is None:
            continue
        tiles = re.search(r"Li(\d)E", short)
        instructions, n_cycles = of_a_token(form, kernel.loops())
        stores, loads, registers, shared = told_of[full_name]
        rows.append(
            {
                "form": f"tensor_{16 * int(tiles[1])}" if tiles else form,
                "dtype": dtype,
                "blocks_of_a_head": n_slices or 4 // int(tiles[1] if tiles else 1),
                "registers": registers,
                "shared_bytes": shared,
                "spilled_bytes": stores + loads,
                "instructions": round(instructions, 1),
                "cycles_alone": round(n_cycles, 1),
            }
        )
    return rows


@click.command()
@click.option("--nvdisasm", type=click.Path(path_type=Path), default="nvdisasm")
def main(nvdisasm: Path) -> None:
    """Compile, disassemble, count; write one row for each device and kernel."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for device, (architecture, n_multiprocessors) in DEVICES.items():
            for form in FORMS:
                for row in measure(architecture, form, nvdisasm, Path(folder)):
                    # A block has a warp for each of a multiprocessor's four schedulers.
                    warps = -(-N_HEADS * row["blocks_of_a_head"] // n_multiprocessors)
                    token = max(warps * row["instructions"], row["cycles_alone"])
                    rows.append({"device": device, **row, "warps_of_a_scheduler": warps, "cycles": round(token)})
                    click.echo(rows[-1], err=True)
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    result = {"nvcc": nvcc, "heads": N_HEADS, "latency": LATENCY, "rows": rows}
    click.echo(write_result("kernel_code", "python benchmarks/bench_kernel_code.py", result))


if __name__ == "__main__":
    main()

"""How machine code is counted, on a few lines as nvdisasm prints them."""

from __future__ import annotations

from bench_kernel_code import cycles, kernels_of, operation


def line(text: str, *, stall: int = 1, written: int = 7, wait: int = 0) -> str:
    control = (stall | written << 5 | 7 << 8 | wait << 11) << 41
    return f"        /*0010*/   {text} ;  /* 0x{0:016x} */\n    /* 0x{control:016x} */"


def test_a_loop_is_found_and_timed():
    body = [line("SHFL.BFLY PT, R0, R1", written=2), line("@!P0 FADD R2, R0, R2", stall=4, wait=1 << 2)]
    body += [line("FADD R3, R3, R4")] * 20
    listing = "\n".join([".text.kernel:", line("MOV R1, R2"), ".L_x_0:", *body, line("@P0 BRA `(.L_x_0)")])
    kernel = kernels_of(listing)["kernel"]
    (loop,) = kernel.loops()
    assert len(loop) == 23
    assert cycles(loop) == 24 + 4 + 20 + 1, "the shuffle's latency, the stall of its reader, and the rest"


def test_a_predicate_is_no_operation():
    assert operation("@!UP0 UIADD3.X UR4, UR5") == "UIADD3"
    assert operation("HMMA.1688.F32.TF32 R28, R28, R10, RZ") == "HMMA"

"""A roofline picture of the figures of `sidewinder bench kernels --json`, as SVG.

Across: operations per byte that must come from and go to memory, if every operand is read once and
every result written once. Up: operations per second. A kernel can be no higher than the lower of the
slope (memory) and the level line (arithmetic); both were measured in the same run.
"""
import json
import math
import pathlib
import re
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 30, 60
ACROSS = (0.1, 3000.0)
UP = (2e9, 2e12)
SCAN_OPERATIONS = 9  # of one state-step, the exponential counted as one
# Operations per element of kernels that are counted in bytes.
ELEMENT_OPERATIONS = {"rms_norm forward": 4, "rms_norm backward": 10, "swiglu forward": 6,
                      "swiglu backward": 14, "adamw": 15, "norm_sq": 2, "causal_conv forward": 13,
                      "causal_conv backward": 30}
COLOURS = {"matmul forward": "#1f5fa8", "matmul data gradient": "#4f93d9",
           "matmul weight gradient": "#9cc4ee", "attention forward": "#b3461e",
           "attention backward": "#e58a5e", "selective_scan forward": "#2e7d4f",
           "selective_scan backward": "#7cc39a", "causal_conv forward": "#8a6d1d",
           "causal_conv backward": "#cdb15c", "rms_norm forward": "#6b3fa0",
           "rms_norm backward": "#a98bd0", "swiglu forward": "#555555", "swiglu backward": "#999999",
           "adamw": "#c2185b", "norm_sq": "#f06292", "linear_cross_entropy": "#00838f"}


def point(kernel):
    """(operations per byte, operations per second) of a row, or None where it is not counted."""
    name, size = kernel["kernel"], 2 if kernel["type"] == "bf16" else 4
    numbers = [int(x) for x in re.findall(r"\d+", kernel["shape"])]
    work = kernel["rate"] * kernel["seconds"]
    if name.startswith("matmul") or name == "linear_cross_entropy":
        tokens, inner, outer = numbers
        operands = tokens * inner + inner * outer
        # The logits stay in the cache, but both gradients go out.
        operands += tokens * outer if name.startswith("matmul") else operands
        return work / (operands * size), kernel["rate"]
    if name.startswith("attention"):
        tokens, heads, width = numbers[:3]
        tensors = 4 if name.endswith("forward") else 8
        return work / (tensors * tokens * heads * width * size), kernel["rate"]
    if name in ("selective_scan forward", "selective_scan backward"):
        tokens, width, states = numbers
        streams, passes = (4, 1) if name.endswith("forward") else (7, 3)
        rate = kernel["rate"] * SCAN_OPERATIONS * passes
        return passes * SCAN_OPERATIONS * states / (streams * size), rate
    if name in ELEMENT_OPERATIONS:
        elements = numbers[0] * (numbers[1] if len(numbers) > 1 else 1)
        operations = ELEMENT_OPERATIONS[name] * elements
        return operations / work, operations / kernel["seconds"]
    return None


def draw(report):
    limits = report["limits"]
    span = lambda value, ends: math.log(value / ends[0]) / math.log(ends[1] / ends[0])
    x = lambda value: LEFT + span(value, ACROSS) * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - span(value, UP) * (HEIGHT - TOP - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    text = lambda px, py, words, more="": out.append(
        f'<text x="{px:.1f}" y="{py:.1f}" {more}>{escape(words)}</text>')
    line = lambda x1, y1, x2, y2, more: out.append(
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>')
    for value in (0.1, 1, 10, 100, 1000):
        line(x(value), TOP, x(value), HEIGHT - BOTTOM, 'stroke="#dddddd"')
        text(x(value), HEIGHT - BOTTOM + 18, f"{value:g}", 'text-anchor="middle"')
    for value in (1e10, 1e11, 1e12):
        line(LEFT, y(value), WIDTH - RIGHT, y(value), 'stroke="#dddddd"')
        text(LEFT - 8, y(value) + 4, f"{value / 1e9:g}", 'text-anchor="end"')
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18, "operations per byte of memory traffic",
         'text-anchor="middle"')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    text(20, middle, "GFLOP/s", f'text-anchor="middle" transform="rotate(-90 20 {middle})"')

    bandwidth = limits["copy_bandwidth"]
    for name, peak in (("f32", limits["f32_flops"]), ("bf16", limits["bf16_flops"])):
        ridge = peak / bandwidth
        line(x(max(ACROSS[0], UP[0] / bandwidth)), y(max(UP[0], ACROSS[0] * bandwidth)), x(ridge),
             y(peak), 'stroke="black" stroke-width="1.5"')
        line(x(ridge), y(peak), x(ACROSS[1]), y(peak), 'stroke="black" stroke-width="1.5"')
        text(x(ACROSS[1]) - 4, y(peak) - 5, f"{name} peak {peak / 1e9:.0f} GFLOP/s",
             'text-anchor="end"')
    text(x(0.45), y(0.45 * bandwidth) - 12, f"copy {bandwidth / 1e9:.0f} GB/s", 'text-anchor="end"')

    seen = []
    for kernel in report["kernels"]:
        place = point(kernel)
        if place is None:
            continue
        name = kernel["kernel"]
        if name not in seen:
            seen.append(name)
        px, py = x(place[0]), y(min(max(place[1], UP[0]), UP[1]))
        what = escape(f"{name} {kernel['shape']} {kernel['type']}: {place[1] / 1e9:.0f} GFLOP/s, "
                      f"{kernel['share']:.0%} of its limit")
        fill = COLOURS[name] if kernel["type"] == "bf16" else "white"
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{fill}" '
                   f'stroke="{COLOURS[name]}" stroke-width="1.6"><title>{what}</title></circle>')
    for i, name in enumerate(seen):
        out.append(f'<circle cx="{WIDTH - RIGHT + 24}" cy="{TOP + 20 * i + 6}" r="4" '
                   f'fill="{COLOURS[name]}"/>')
        text(WIDTH - RIGHT + 36, TOP + 20 * i + 10, name)
    text(WIDTH - RIGHT + 20, TOP + 20 * len(seen) + 16, "filled: bf16, hollow: f32")
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(draw(json.loads(pathlib.Path(sys.argv[1]).read_text())), end="")

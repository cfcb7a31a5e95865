"""Interleaved timing: every round runs each contender once, so that a machine whose speed drifts treats them alike."""

import statistics
import time
from collections.abc import Callable


def interleave(contenders: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, dict[str, float]]:
    """Median, least and greatest wall seconds, and median CPU seconds, of each contender; one uncounted round first."""
    wall, cpu = {name: [] for name in contenders}, {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            work()
            if number:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    return {
        name: dict(wall=statistics.median(wall[name]), least=min(wall[name]), most=max(wall[name]), cpu=statistics.median(cpu[name])) for name in wall
    }


def report(title: str, measured: dict[str, dict[str, float]], amount: float, unit: str, ours: str) -> None:
    """Print rates and, for each contender, how many times faster `ours` is, by wall and by CPU time of the same rounds."""
    print(f"\n{title}")
    print(f"{'':38}{unit + '/s':>16}{'spread':>20}{'ours is faster by':>20}{'by CPU time':>14}")
    base = measured[ours]
    for name, one in measured.items():
        ratio, by_cpu = one["wall"] / base["wall"], one["cpu"] / max(base["cpu"], 1e-9)
        spread = f"{amount / one['most']:,.0f}-{amount / one['least']:,.0f}"
        print(f"{name:38}{amount / one['wall']:16,.0f}{spread:>20}{ratio:19.2f}x{by_cpu:13.2f}x")

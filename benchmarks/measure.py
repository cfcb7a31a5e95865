"""Interleaved timing: every round runs each contender once, so that a machine whose speed drifts treats them alike."""

import resource
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np


def cpu_seconds() -> float:
    """CPU seconds of this process, its threads and the child processes that it has waited for."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def interleave(contenders: dict[str, Callable[[], object]], rounds: int = 7, warm: bool = True) -> dict[str, np.ndarray]:
    """Wall and CPU seconds of each contender, shape (2, rounds); with `warm` after one round that does not count."""
    taken = {name: [] for name in contenders}
    for number in range(rounds + warm):
        for name, work in contenders.items():
            start_cpu, start = cpu_seconds(), time.perf_counter()
            work()
            if number >= warm:
                taken[name].append((time.perf_counter() - start, cpu_seconds() - start_cpu))
    return {name: np.array(pairs).T for name, pairs in taken.items()}


def report(title: str, measured: dict[str, np.ndarray], amount: float, unit: str, goals: dict[str, float] | None = None) -> None:
    """Print rates and how many times faster the first contender is: the median over rounds of the ratio within a round, by wall and by CPU time.

    `goals` are ratios to reach, by contender. CPU time decides, since wall time on a shared machine says who else was there.
    """
    ours = next(iter(measured.values()))
    print(f"\n{title}: medians of {ours.shape[1]} interleaved rounds")
    print(f"{'':44}{'wall ms':>10}{'min-max':>18}{'CPU ms':>10}{unit + '/CPU s':>16}{'ours faster: wall':>19}{'CPU':>8}")
    for name, taken in measured.items():
        wall, cpu = np.median(taken * 1e3, axis=1)
        by_wall, by_cpu = np.median(taken / ours, axis=1)
        goal = (goals or {}).get(name)
        verdict = "" if goal is None else f"  goal {goal:g}x: {'reached' if by_cpu >= goal else 'MISSED'}"
        spread = f"{taken[0].min() * 1e3:,.1f}-{taken[0].max() * 1e3:,.1f}"
        print(f"{name:44}{wall:10,.1f}{spread:>18}{cpu:10,.1f}{amount / cpu * 1e3:16,.0f}{by_wall:18.2f}x{by_cpu:7.2f}x{verdict}", flush=True)


def version(package: str) -> str | None:
    """Installed version of a peer, or None, said aloud."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        print(f"left out: {package} is not installed")
        return None

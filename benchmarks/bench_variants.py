"""Variant effects, both strands, as a share of the model's bare forward pass over as many windows; against tangermeme with the same architecture.

    python benchmarks/bench_variants.py [--variants 4096] [--rounds 5] [--peer /path/to/a/python/that/has/torch/and/tangermeme]

Four windows a variant: two alleles, two strands. One in ten is an insertion. tangermeme's substitution_effect takes substitutions and is given
those alone, as one-hot windows that are ready, one strand after the other: reading the genome, checking REF and making the table are left out for it.
Nets have random weights. The peer runs in a process of its own, which starts, loads and warms up before it is timed; rounds take turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from measure import interleave

PEER = """
import sys, time, resource, numpy as np, torch
from tangermeme.variant_effect import substitution_effect
torch.manual_seed(0); torch.set_num_threads(int(sys.argv[2]))
net, data = sys.argv[1], np.load(sys.argv[3])
C, R, P, F, L, S = (getattr(torch.nn, n) for n in "Conv1d ReLU MaxPool1d Flatten Linear Sigmoid".split())
class Most(torch.nn.Module):
    def forward(self, x): return x.amax(-1)
class Scan(torch.nn.Module):
    def __init__(self): super().__init__(); self.conv = C(4, 10, 11)
    def forward(self, x):
        turned = torch.nn.functional.conv1d(x, self.conv.weight.flip(1, 2), self.conv.bias)
        return torch.maximum(self.conv(x), turned).relu()
small = lambda: torch.nn.Sequential(Scan(), P(30), torch.nn.BatchNorm1d(10), C(10, 8, 3), R(), Most(), torch.nn.BatchNorm1d(8), L(8, 1), S())
convolutions = C(4, 80, 8), R(), P(4), C(80, 120, 8), R(), P(4)
large = lambda: torch.nn.Sequential(*convolutions, C(120, 240, 8), R(), F(), L(53 * 240, 231), R(), L(231, 919), S())
model = (small() if net == "jund" else large()).eval()
X = torch.nn.functional.one_hot(torch.from_numpy(data["codes"]).long(), 4).permute(0, 2, 1).float()
n, width = data["codes"].shape
subs = torch.from_numpy(np.stack([np.arange(n), np.full(n, width // 2), data["alt"]], axis=1)).long()
turned = subs.clone(); turned[:, 1] = width - 1 - width // 2; turned[:, 2] = 3 - subs[:, 2]
def work():
    for x, s in ((X, subs), (X.flip(1, 2), turned)):
        substitution_effect(model, x, s, device="cpu", batch_size=int(sys.argv[4]))
work(); print("ready", flush=True)
for line in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter(); work()
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


def draw(hg, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """SNVs anywhere on chr1, one in ten of them an insertion."""
    from nbgenomics.genome import decode

    table = pd.DataFrame({"chrom": "chr1", "start": np.sort(rng.integers(2_000, 1_500_000, n))})
    codes = np.asarray(hg.windows(table.assign(end=table.start + 1), 1))[:, 0]
    table["ref"], table["alt"] = list(decode(codes)), list(decode((codes + rng.integers(1, 4, n)) % 4))
    return table.assign(alt=table.alt + np.where(rng.random(n) < 0.1, "ACG", ""))


def compare(name: str, model, hg, table: pd.DataFrame, options, batch_size: int = 512) -> None:
    from nbgenomics import variants

    width, n = model.input["sequence"].shape[1], len(table)
    codes = variants.windows(hg, table.iloc[:batch_size], width)[0]
    snvs = table[table.alt.str.len() == 1].reset_index(drop=True)

    def bare():
        for _ in range(4 * n // batch_size):
            model.predict_on_batch({"sequence": codes})

    taken = interleave({"bare": bare, "effects": lambda: variants.effects(model, hg, table, batch_size=batch_size)}, options.rounds)
    wall, cpu = np.median(taken["bare"] / taken["effects"], axis=1)
    rates = n / np.median(taken["effects"], axis=1)
    verdict = "reached" if cpu >= 0.8 else "MISSED"
    rate = f"{rates[0]:9,.0f} variants/s {rates[1]:9,.0f} /CPU s"
    print(f"{name:32}{rate}   share of the bare forward pass: wall {wall:.2f}, CPU {cpu:.2f}  goal 0.8: {verdict}", flush=True)
    if not options.peer:
        return
    with tempfile.TemporaryDirectory() as folder:
        pair = variants.windows(hg, snvs, width)
        np.savez(Path(folder) / "data.npz", codes=pair[0], alt=pair[1][:, width // 2])
        command = [
            options.peer,
            "-c",
            PEER,
            "jund" if width == 500 else "deepsea",
            str(os.cpu_count()),
            str(Path(folder) / "data.npz"),
            str(batch_size),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            if peer.stdout.readline().strip() != "ready":
                print("left out: tangermeme, whose process did not start (its error stands above)")
                return
            ratios = []
            for _ in range(options.rounds):
                peer.stdin.write("go\n")
                peer.stdin.flush()
                theirs = np.array(peer.stdout.readline().split(), float)
                mine = interleave({"effects": lambda: variants.effects(model, hg, snvs, batch_size=batch_size)}, 1, warm=False)["effects"][:, 0]
                ratios.append(theirs / mine)
            peer.stdin.close()
    wall, cpu = np.median(ratios, axis=0)
    print(f"{'':32}ours faster than tangermeme's substitution_effect: {wall:.2f}x wall, {cpu:.2f}x CPU ({len(snvs):,} SNVs)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", help="a python that has torch and tangermeme; this one where it has them")
    options = parser.parse_args()
    peer = options.peer or sys.executable
    if subprocess.run([peer, "-c", "import torch, tangermeme.variant_effect"], capture_output=True).returncode:
        print(f"left out: tangermeme, since {peer} does not have it and torch; name one that has with --peer")
        peer = None
    options.peer = peer
    from nbgenomics import genome, models, registry

    hg = genome.open_genome(registry.fetch("demo", roles=["genome"])["genome"])
    table = draw(hg, options.variants, np.random.default_rng(0))
    print(f"medians of {options.rounds} interleaved rounds, both strands, {len(table):,} variants")
    compare("JunD's net, 500 bp", models.jund_sequence(500), hg, table, options)
    few = table.iloc[: max(len(table) // 8, 128)].reset_index(drop=True)
    compare(f"DeepSEA at a quarter, 1,000 bp, 919 targets, {len(few):,} of them", models.deepsea(scale=0.25), hg, few, options, 128)


if __name__ == "__main__":
    main()

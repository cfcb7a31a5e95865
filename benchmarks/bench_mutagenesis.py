"""Saturation mutagenesis: the local method against predicting every mutant, and against tangermeme on the same nets.

    python benchmarks/bench_mutagenesis.py [--peer PYTHON] [--rounds 3] [--only NET ...]

PYTHON is an interpreter of an environment with torch and tangermeme. Nets are as published unless they say otherwise, with random weights; large nets
are timed on a part of the positions. Our brute method is tried in three batch sizes and counts at its best; what is compiled at first is not timed.
tangermeme counts at the faster of `fast=True` (forced: it leaves small jobs alone, so its capture is timed with the job) and `fast=False`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import cpu_seconds, interleave

NETS = {  # builder, sequences, span
    "jund_sequence, 500 bp": (lambda models: models.jund_sequence(500), 8, None),
    "jund_sequence, 500 bp, order 3": (lambda models: models.jund_sequence(500, 3), 2, None),
    "jund_sequence, 1,000 bp": (lambda models: models.jund_sequence(1000), 4, None),
    "jund_sequence, 1,000 bp, order 3": (lambda models: models.jund_sequence(1000, 3), 1, None),
    "deepsea at 1/8, 1,000 bp": (lambda models: models.deepsea(1000, scale=1 / 8), 1, (0, 500)),
    "deepsea, 1,000 bp": (lambda models: models.deepsea(1000), 1, (400, 520)),
    "deepark at 1/8, 65 targets": (lambda models: models.deepark(65, scale=1 / 8), 1, (2000, 2100)),
    "deepark, 65 targets": (lambda models: models.deepark(65), 1, (2000, 2040)),
    "deepatac, 200 bp, with ATAC": (lambda models: models.deepatac(200), 1, None),
    "motif_cnn, 101 bp": (lambda models: models.motif_cnn(101), 8, None),
    "deepbind, 101 bp": (lambda models: models.deepbind(101), 16, None),
    "danq, 1,000 bp": (lambda models: models.danq(1000), 1, (400, 450)),
    "dilated, 1,000 bp": (lambda models: models.dilated(1000), 1, (400, 500)),
}
PEER = ("jund_sequence, 500 bp", "jund_sequence, 1,000 bp", "deepsea at 1/8, 1,000 bp", "deepsea, 1,000 bp")  # nets that the worker builds too


def arrays_of(model) -> dict[str, np.ndarray]:
    """Kernels and biases by layer, both strands of a scan, as arrays a worker without Keras can read."""
    from nbgenomics.layers import ScanBothStrands

    found = {}
    for number, layer in enumerate(each for each in model.layers if each.weights):
        weights = layer.get_weights()
        kind = type(layer).__name__
        if isinstance(layer, ScanBothStrands):
            weights, kind = [weights[0], weights[0][::-1, ::-1], weights[1]], "Scan"
        found |= {f"{number:02d} {kind} {i}": array for i, array in enumerate(weights)}
    return found


def worker(folder: str) -> None:
    """In the peer's interpreter: build the net from its arrays, save the effects, then answer every line with wall and CPU seconds of either way."""
    import tangermeme.saturation_mutagenesis as peer
    import torch
    from torch import nn

    warnings.simplefilter("ignore")
    peer._FAST_MIN_SECONDS = 0.0
    given = dict(np.load(f"{folder}/net.npz"))
    parts = {}
    for key, array in given.items():
        if key[0].isdigit():
            number, kind, _ = key.split()
            parts.setdefault((number, kind), []).append(torch.tensor(array))
    pools, (start, end) = list(given["pools"]), given["span"]

    class Scan(nn.Module):
        def __init__(self, one, two):
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x):
            return torch.maximum(self.one(x), self.two(x))

    def convolution(kernel, bias):
        layer = nn.Conv1d(kernel.shape[1], kernel.shape[2], kernel.shape[0])
        layer.weight.data, layer.bias.data = kernel.permute(2, 1, 0).contiguous(), bias
        return layer

    class FromLast(nn.Module):  # Keras flattens position by position
        def forward(self, x):
            return x.transpose(1, 2).flatten(1)

    class Largest(nn.Module):
        def forward(self, x):
            return x.amax(-1)

    chain, flat = [], False
    for (_, kind), arrays in parts.items():
        if kind == "Scan":
            chain += [Scan(convolution(arrays[0], arrays[2]), convolution(arrays[1], arrays[2])), nn.ReLU()]
        elif kind == "Conv1D":
            chain += [convolution(*arrays), nn.ReLU()]
        elif kind == "BatchNormalization":
            if len(chain) > 5 and not flat:
                chain, flat = [*chain, Largest()], True
            layer = nn.BatchNorm1d(len(arrays[0]), eps=1e-3)
            layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var = arrays
            chain.append(layer)
        else:
            chain, flat = chain if flat else [*chain, FromLast()], True
            layer = nn.Linear(*arrays[0].shape)
            layer.weight.data, layer.bias.data = arrays[0].T.contiguous(), arrays[1]
            chain += [layer, nn.ReLU()]
        if kind in ("Scan", "Conv1D") and pools:
            chain.append(nn.MaxPool1d(int(pools.pop(0))))
    net = nn.Sequential(*chain[:-1]).eval()  # the head without activation: log odds
    letters = torch.tensor(np.eye(4, dtype=np.int8)[given["codes"]].transpose(0, 2, 1).copy())

    def run(fast):
        start_cpu, begin, seen, original = cpu_seconds(), time.perf_counter(), [], peer._fast_path

        def noted(*args, **options):
            seen.append(original(*args, **options))
            return seen[-1]

        peer._fast_path = noted
        y0, y = peer.saturation_mutagenesis(
            net, letters, start=int(start), end=int(end), batch_size=256, raw_outputs=True, device="cpu", fast=fast, func=lambda y: y[:, :1]
        )
        peer._fast_path = original
        used = bool(seen and seen[0][0] is not None)
        return y - y0.reshape(len(y0), 1, 1, -1), time.perf_counter() - begin, cpu_seconds() - start_cpu, used

    np.save(f"{folder}/effects.npy", run(True)[0].numpy())
    for _ in sys.stdin:
        print(*(value for fast in (True, False) for value in run(fast)[1:]), flush=True)


def against_peer(python: str, model, codes, span, ours, effects, rounds: int) -> None:
    import keras

    pools = [layer.pool_size[0] for layer in model.layers if isinstance(layer, keras.layers.MaxPooling1D)]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/net.npz", codes=codes, pools=pools, span=span, **arrays_of(model))
        command = [python, __file__, "--worker", folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            taken = []
            for number in range(rounds + 1):
                own = interleave({"ours": ours}, 1, warm=False)["ours"][:, 0]
                process.stdin.write("go\n")
                process.stdin.flush()
                answer = process.stdout.readline().split()
                if number == 0:
                    theirs = np.moveaxis(np.load(Path(folder) / "effects.npy"), 1, 2)  # (n, letters, positions, 1)
                    np.testing.assert_allclose(theirs, effects, atol=1e-4)
                else:
                    fast, plain = np.array(answer[:2], float), np.array(answer[3:5], float)
                    taken.append(min(fast, plain, key=lambda pair: pair[1]) / own)
            process.stdin.close()
    by_wall, by_cpu = np.median(taken, axis=0)
    used = f"fast path {'used' if answer[2] == 'True' else 'NOT used'}, {fast[1]:.1f} CPU s; plain {plain[1]:.1f}"
    print(f"{'':36}tangermeme ({used}):{by_wall:8.1f}x wall{by_cpu:8.1f}x CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(NETS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker)
    import keras

    from nbgenomics import models, mutagenesis

    rng = np.random.default_rng(0)
    print(f"medians of {options.rounds} interleaved rounds; mutants a CPU second; the local method is faster by\n{'':36}{'local':>12}{'brute':>12}")
    for name in options.only:
        build, count, span = NETS[name]
        keras.utils.set_random_seed(0)
        model = build(models)
        width = model.input["sequence"].shape[1]
        span = span or (0, width)
        inputs = {"sequence": rng.integers(0, 4, (count, width)).astype(np.uint8)}
        inputs |= {"atac": rng.integers(0, 2, (count, width, 2)).astype(np.float32)} if "atac" in model.input else {}

        def run(method, size=None, model=model, inputs=inputs, span=span):
            return mutagenesis.saturate(model, inputs, method=method, span=span, batch_size=size).effects

        effects = run("local")
        np.testing.assert_allclose(effects, run("brute"), atol=1e-5)
        contenders = {"local": lambda run=run: run("local")} | {size: lambda run=run, size=size: run("brute", size) for size in (None, 64, 256)}
        taken = interleave(contenders, options.rounds)
        best = min(list(taken)[1:], key=lambda size: np.median(taken[size][1]))
        mutants = 3 * count * (span[1] - span[0])
        rates = [mutants / np.median(taken[each][1]) for each in ("local", best)]
        faster = np.median(taken[best] / taken["local"], axis=1)
        print(f"{name:36}{rates[0]:12,.0f}{rates[1]:12,.0f}{faster[0]:9.1f}x wall{faster[1]:8.1f}x CPU", flush=True)
        if options.peer and name in PEER:
            against_peer(options.peer, model, inputs["sequence"], span, contenders["local"], effects, options.rounds)
    if not options.peer:
        print("left out: tangermeme, no --peer given")


if __name__ == "__main__":
    main()

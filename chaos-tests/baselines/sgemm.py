"""The single-precision matrix products of one core by numpy's OpenBLAS, GFLOP/s: the best of many, for several shapes.

OPENBLAS_NUM_THREADS=1 PYTHONPATH=<folder of numpy> python3 chaos-tests/baselines/sgemm.py
"""

import time

import numpy

for m, k, n in [(256, 64, 4096), (256, 256, 4096), (2048, 2048, 2048)]:
    generator = numpy.random.default_rng(1)
    left = generator.standard_normal((m, k), dtype=numpy.float32)
    right = generator.standard_normal((k, n), dtype=numpy.float32)
    out = numpy.empty((m, n), dtype=numpy.float32)
    seconds = []
    for _ in range(max(5, int(2e10 / (m * k * n)))):
        start = time.perf_counter()
        numpy.matmul(left, right, out=out)
        seconds.append(time.perf_counter() - start)
    print(f"{m} x {k} x {n}: best {2e-9 * m * k * n / min(seconds):.0f}, median {2e-9 * m * k * n / sorted(seconds)[len(seconds) // 2]:.0f} GFLOP/s")

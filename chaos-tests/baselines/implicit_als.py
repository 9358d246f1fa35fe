"""implicit's ALS on lines `user item item ...`: fits, writes everybody's best items, prints one line of JSON with what it took.

Run by `docent-bench-training` (`make bench-training`). With --hold-out SEED a random tenth of the training pairs is kept out and measured with,
which is how the settings in `bench_training.rs` were chosen; the test part is not read then.
"""
import argparse
import json
import sys
import time

import numpy
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits


def pairs(path):
    users, items = [], []
    with open(path) as file:
        for line in file:
            numbers = [int(word) for word in line.split()]
            users += [numbers[0]] * (len(numbers) - 1)
            items += numbers[1:]
    return numpy.array(users), numpy.array(items)


def matrix(users, items, shape):
    entries = scipy.sparse.csr_matrix((numpy.ones(len(users), numpy.float32), (users, items)), shape=shape)
    entries.data[:] = 1  # a pair that is there twice counts once
    return entries


def lists(model, train, users, n):
    best, _ = model.recommend(users, train[users], N=n, filter_already_liked_items=True)
    return best


def measure(model, train, held_out, n):
    users = numpy.flatnonzero(numpy.diff(held_out.indptr))
    gains = 1 / numpy.log2(numpy.arange(n) + 2)
    recall = ndcg = 0.0
    for user, best in zip(users, lists(model, train, users, n)):
        truth = held_out.indices[held_out.indptr[user] : held_out.indptr[user + 1]]
        hits = numpy.isin(best, truth)
        recall += hits.sum() / len(truth)
        ndcg += gains[hits].sum() / gains[: min(n, len(truth))].sum()
    return recall / len(users), ndcg / len(users)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--out", help="where the best items go, `user item item ...`")
    parser.add_argument("--factors", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--alpha", type=float, required=True, help="weight of an observed pair above the others' 1")
    parser.add_argument("--regularization", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--exact", action="store_true", help="solve by Cholesky; conjugate gradients are implicit's default")
    parser.add_argument("--hold-out", type=int, metavar="SEED")
    parser.add_argument("-n", type=int, default=20)
    args = parser.parse_args()
    users, items = pairs(args.train)
    shape, held_out = (users.max() + 1, items.max() + 1), None
    if args.hold_out is not None:
        out = numpy.random.default_rng(args.hold_out).random(len(users)) < 0.1
        held_out = matrix(users[out], items[out], shape)
        users, items = users[~out], items[~out]
    train = matrix(users, items, shape)
    model = AlternatingLeastSquares(
        factors=args.factors,
        regularization=args.regularization,
        alpha=args.alpha,
        iterations=args.iterations,
        use_cg=not args.exact,
        num_threads=args.threads,
        random_state=args.seed,
    )
    with threadpool_limits(1, "blas"):  # as implicit asks for: its own threads are the parallel ones
        start = time.perf_counter()
        model.fit(train, show_progress=False)
        seconds = time.perf_counter() - start
        said = {"seconds": seconds}
        if held_out is not None:
            said["recall"], said["ndcg"] = measure(model, train, held_out, args.n)
        if args.out:
            known = numpy.flatnonzero(numpy.diff(train.indptr))
            with open(args.out, "w") as file:
                for user, best in zip(known, lists(model, train, known, args.n)):
                    file.write(f"{user} {' '.join(str(item) for item in best)}\n")
    json.dump(said, sys.stdout)
    print()


main()

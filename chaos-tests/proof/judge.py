#!/usr/bin/env python3
"""Holds what sceptic.py saw (DIR/ledger.jsonl, DIR/answers.jsonl) against what the cluster exported. Exit code: 0 green, 1 red.

    judge.py DIR
"""
import functools, json, struct, sys
from collections import Counter, defaultdict

N, F32 = 20, struct.Struct("f")


def f32(number):
    """Rounded to 32 bits."""
    return F32.unpack(F32.pack(number))[0]


def lines(name):
    with open(f"{sys.argv[1]}/{name}.jsonl") as file:
        return [json.loads(line) for line in file]


ledger, answers, events = lines("ledger"), lines("answers"), lines("events-2")
rows = lambda name: {line["id"]: [f32(value) for value in line["values"]] for line in lines(name)}
vectors = {(kind, version): rows(f"{kind}-{version}") for kind in ("users", "items") for version in (1, 2)}
noted = lambda key: {line[key]: line["at"] for line in ledger if key in line}
opted_out, taken_down = noted("opted_out"), noted("taken_down")
died, exported = min(noted("killed").values(), default=1e9), min(noted("exported").values(), default=0)


@functools.cache
def score(version, user, item):
    """The documented score: products and sums from the first component to the last, each rounded to f32."""
    total = 0.0
    for a, b in zip(vectors["users", version][user], vectors["items", version][item]):
        total = f32(total + f32(a * b))
    return total


def top(user, seen):
    """The best items of the second model, by brute force over all that he has not seen."""
    allowed = [item for item in vectors["items", 2] if item not in seen]
    best = sorted((-score(2, user, item), item.encode()) for item in allowed)
    return [[item.decode(), -negative, "model"] for negative, item in best[:N]]


def is_personal(answer):
    return any(source != "popular" for _, _, source in answer["items"])


def is_mixed(answer):
    """Whether some score is not the one that the model version of this answer gives."""
    chosen = [(item, value) for item, value, source in answer["items"] if source == "model"]
    return any(f32(value) != score(answer["version"], answer["user"], item) for item, value in chosen if item not in taken_down)  # what is taken down is not exported


def longest(times):
    return max((b - a for a, b in zip(sorted(times), sorted(times)[1:])), default=0.0)


# Events: what was sent, what was acked, what is there.
sent = {event: (user, item) for line in ledger for event, user, item in line.get("sent", [])}
acked = {event for line in ledger for event in line.get("acked", [])}
kept = Counter(event["event_id"] for event in events)
strange = [event for event in events if sent.get(event["event_id"]) != (event["user_id"], event["item_id"])]
seen, homes = defaultdict(set), {user: shard for line in ledger for user, shard in line.get("shards", {}).items()}
for event in events:
    seen[event["user_id"]].add(event["item_id"])

# Answers. What failed through the victim after its end had begun is nobody's fault.
good = [answer for answer in answers if "failed" not in answer and len(answer["items"]) == N]
failed = [answer for answer in answers if not answer["dying"] and ("failed" in answer or len(answer["items"]) != N)]
personal = [answer for answer in good if answer["version"] and is_personal(answer)]
quiet = [answer for answer in personal if answer["user"].startswith("quiet") and answer["user"] not in opted_out]
steady = [answer for answer in quiet if answer["ended"] < exported]
final = [answer for answer in good if answer["final"] and answer["user"] not in opted_out]
wanted = {user: top(user, seen[user]) for user in {answer["user"] for answer in final}}
is_wrong = lambda answer: [[item, f32(value), source] for item, value, source in answer["items"]] != wanted[answer["user"]]
after = lambda answer, times, key: key in times and answer["began"] > times[key]

verdict = {
    "acked events that are not there": [event for event in acked if not kept[event]],
    "events that are there twice": [event for event, count in kept.items() if count > 1],
    "events that nobody sent": strange,
    "queries that failed through a living node": failed,
    "answers with a score of another model version": [answer for answer in steady if is_mixed(answer)],
    f"last top-{N}s that brute force disagrees with": [answer for answer in final if is_wrong(answer)],
    "personal answers after an acked opt-out": [answer for answer in personal if after(answer, opted_out, answer["user"])],
    "answers with an item after its take-down": [
        answer for answer in good if any(after(answer, taken_down, item) for item, _, _ in answer["items"])
    ],
}
took_place = {
    "events were acked in the second before a node died": any("acked" in line and 0 <= died - line["at"] < 1 for line in ledger),
    "it died before the second model was there": {answer["version"] for answer in steady if answer["began"] > died} == {1, 2},
    "the last answers are the second model's": {answer["version"] for answer in final} == {2},
    "the last answers came from three nodes": len({answer["node"] for answer in final}) >= 3,
    "everybody had personal answers before his opt-out": {a["user"] for a in personal if a["user"] in opted_out} == set(opted_out) != set(),
    "an item was taken down": bool(taken_down),
    "a thousand events were acked": len(acked) >= 1000,
}
verdict["parts of the story that did not happen"] = [what for what, is_so in took_place.items() if not is_so]

print(f"\n{len(acked)} acked events, {len(answers)} answers, {len(steady)} of them checked score by score, {len(final)} item by item")
for what, found in verdict.items():
    print(f"  {'ok ' if not found else 'RED'}  {len(found):6}  {what}" + (f", such as {found[0]}"[:300] if found else ""))
gaps = {"a personal answer": defaultdict(list), "an acked event": defaultdict(list)}
for answer in personal:
    gaps["a personal answer"][homes[answer["user"]]].append(answer["ended"])
for line in ledger:
    [gaps["an acked event"][shard].append(line["at"]) for shard in set(line.get("shards", {}).values())]
for what, shards in gaps.items():
    print(f"  longest time that users of a shard went without {what}: {max(map(longest, shards.values()), default=0):.1f} s")
print("GREEN" if not any(verdict.values()) else "RED", flush=True)
sys.exit(any(map(bool, verdict.values())))

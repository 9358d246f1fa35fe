#!/usr/bin/env python3
"""What a sceptic would write: a client of a Docent cluster that shares no code with it, and notes all that it sees for judge.py.

    sceptic.py DIR DOCENT node-1=HOST:PORT ...

Events, queries, opt-outs and a take-down go over HTTP to every node. Only `DOCENT export` is theirs: it writes the events and vectors that
are judged. The cluster belongs to somebody else, its keeper: a line that begins with "!" asks it to train, or to kill, wipe and replace a
node, and its answer comes on standard input.
"""
import http.client, json, os, random, signal, subprocess, sys, threading, time

N = 20  # items of an answer
USERS, ITEMS, HISTORY, EPOCHS, CALM_S = (80, 200, 12, 600, 1) if os.environ.get("SHORT") else (300, 500, 20, 1000, 8)
QUIET = [f"quiet-{i}" for i in range(USERS // 4)]  # they only read once the load is on, so their vectors stand still
BUSY = [f"busy-{i}" for i in range(USERS - len(QUIET))]
WRITERS, READERS, BATCH, PAUSE_S = 8, 6, 10, 0.05


class Sceptic:
    def __init__(self, directory, docent, nodes):
        self.directory, self.docent, self.nodes, self.dead = directory, docent, nodes, set()
        self.ledger, self.answers = open(f"{directory}/ledger.jsonl", "w"), open(f"{directory}/answers.jsonl", "w")
        self.lock, self.connections, self.start = threading.Lock(), threading.local(), time.monotonic()
        self.is_written = self.is_read = False  # whether the writers, and the readers, are to stop

    def now(self):
        return round(time.monotonic() - self.start, 6)

    def say(self, text):
        print(f"{self.now():6.1f} s  {text}", flush=True)

    def note(self, **line):
        """A line of the ledger. What was acked is on our disk, synced, before we go on."""
        with self.lock:
            self.ledger.write(json.dumps({**line, "at": self.now()}) + "\n")
            self.ledger.flush()
            if "sent" not in line:
                os.fsync(self.ledger.fileno())

    def keeper(self, order):
        print(f"!{order}", flush=True)
        return sys.stdin.readline().strip() or sys.exit(f"the cluster's keeper failed to {order}")

    def living(self):
        return [node for node in self.nodes if node not in self.dead]

    def call(self, node, method, path, body=None):
        """One request over this thread's own connection to the node; status 0 where no answer came."""
        connection = self.connections.__dict__.setdefault(node, http.client.HTTPConnection(self.nodes[node], timeout=20))
        try:
            connection.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            return 0, repr(error)

    def insist(self, node, method, path, body=None):
        until = time.monotonic() + 60
        while (answer := self.call(node, method, path, body))[0] != 200:
            time.sleep(0.05) if time.monotonic() < until else sys.exit(f"{method} {path} was not acked in 60 s: {answer}")

    def send(self, events, turn):
        """Sends events (id, user, item) through the nodes in turn until each is acked, always under the same ids."""
        self.note(sent=events)
        while events and not self.is_written:
            living = self.living()
            body = {"events": [{"event_id": e, "user_id": u, "item_id": i, "type": "click"} for e, u, i in events]}
            status, answer = self.call(living[turn % len(living)], "POST", "/v1/events", body)
            results = answer["results"] if status == 200 else [{"outcome": "unknown"}] * len(events)
            kept = [event[0] for event, result in zip(events, results) if result["outcome"] in ("accepted", "duplicate")]
            if kept:
                shards = {event[1]: r["position"].split("@")[0] for event, r in zip(events, results) if r.get("position")}
                self.note(acked=kept, shards=shards)
            events, turn = [event for event in events if event[0] not in kept], turn + 1
            time.sleep(PAUSE_S if events else 0)

    def ask(self, node, user, final=False):
        began = self.now()
        status, answer = self.call(node, "POST", "/v1/recommend", {"user_id": user, "n": N})
        line = {"node": node, "user": user, "began": began, "ended": self.now(), "final": final, "dying": node in self.dead}
        if status == 200:
            line["version"], line["degraded"] = answer["model"]["version"], answer["coverage"]["degraded"]
            line["items"] = [[item["id"], item["score"], item["source"]] for item in answer["items"]]
        else:
            line["failed"] = f"{status} {answer}"
        with self.lock:
            self.answers.write(json.dumps(line) + "\n")
        return line

    def writer(self, thread):
        chance, number = random.Random(thread), 0
        while not self.is_written:
            user, number = chance.choice(BUSY), number + 1
            self.send([(f"{thread}-{number}-{i}", user, chance.choice(liked(user))) for i in range(BATCH)], thread + number)
            time.sleep(PAUSE_S)

    def reader(self, thread):
        chance = random.Random(thread)
        while not self.is_read:
            self.ask(chance.choice(self.living()), chance.choice(QUIET if chance.random() < 0.5 else BUSY))
            time.sleep(PAUSE_S)

    def opt_out(self, user, node):
        """Acked by one node, asked of the others at once."""
        self.ask(node, user)
        self.insist(node, "PUT", f"/v1/users/{user}/consent", {"collect": True, "recommend": False, "train": True})
        self.note(opted_out=user)
        [self.ask(other, user) for other in self.living() * 2]

    def take_down(self, item, node):
        self.insist(node, "POST", f"/v1/items/{item}:take-down")
        self.note(taken_down=item)
        [self.ask(other, user) for user in QUIET for other in self.living()]

    def export(self, version, *kinds):
        nodes = ",".join(self.nodes[node] for node in self.living())
        for kind in kinds:
            what = ["events"] if kind == "events" else ["vectors", "--of", kind]
            command = [self.docent, "export", *what, "--node", nodes, "--out", f"{self.directory}/{kind}-{version}.jsonl"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def story(self):
        self.say(f"{USERS} users, {USERS * HISTORY} events, and a first model of them")
        for turn, user in enumerate(QUIET + BUSY):
            self.send([(f"history-{user}-{i}", user, i) for i in random.Random(user).sample(liked(user), HISTORY)], turn)
        self.keeper("train 3")
        self.export(1, "users", "items")
        [self.ask(node, user) for user in QUIET for node in self.nodes]
        self.say(f"{WRITERS} writers and {READERS} readers are at work on every node")
        writers = [threading.Thread(target=self.writer, args=(i,), daemon=True) for i in range(WRITERS)]
        readers = [threading.Thread(target=self.reader, args=(i,), daemon=True) for i in range(READERS)]
        [thread.start() for thread in writers + readers]
        victim, first = self.keeper("choose a victim"), next(iter(self.nodes))
        time.sleep(CALM_S)
        self.opt_out("quiet-1", first)
        self.say("a second model is being trained: " + self.keeper(f"begin training {EPOCHS}"))
        self.dead.add(victim)
        self.keeper(f"kill {victim}")
        self.note(killed=victim)
        self.say(f"kill -9 of {victim} in the middle of it; its disk is wiped")
        self.opt_out("quiet-2", self.living()[0])
        name, address = self.keeper(f"replace {victim}").split("=")
        self.nodes = {**self.nodes, name: address}
        self.say(f"{victim} is struck off, and {name} has joined with an empty disk")
        self.say(self.keeper("finish training"))
        for i, node in enumerate(self.living()):
            self.opt_out(f"quiet-{3 + i}", node), self.opt_out(f"busy-{i}", node)
        self.say("users opted out, each through one node; all nodes were asked")
        time.sleep(CALM_S)
        self.is_written = True
        [thread.join() for thread in writers]
        self.take_down(self.ask(name, QUIET[0])["items"][0][0], self.living()[0])
        [self.ask(node, user, final=True) for user in QUIET + BUSY for node in self.living()]
        self.export(2, "events", "users", "items")
        self.note(exported=2)
        self.is_read = True
        [thread.join() for thread in readers]
        self.say("an item was taken down, all nodes were asked, and events and vectors exported")


def liked(user):
    """Every user clicks on a fifth of the items, those of his kind."""
    kind = int(user.split("-")[1]) % 5
    return [f"item-{i}" for i in range(ITEMS) if i % 5 == kind]


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # the keeper lets Ctrl-C through to us alone
    sceptic = Sceptic(sys.argv[1], sys.argv[2], dict(node.split("=") for node in sys.argv[3:]))
    sceptic.story()
    sceptic.ledger.close(), sceptic.answers.close()

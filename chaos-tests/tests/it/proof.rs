//! `make proof` in its short form is green, and its judge says red on every kind of doctored notes.

use docent_chaos::docs::root;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a sceptic reads.
const SCRIPTS: [&str; 2] = ["sceptic.py", "judge.py"];
/// More he does not.
const LINES_MAX: usize = 200;

fn script(name: &str) -> PathBuf {
    root().join("chaos-tests/proof").join(name)
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn judge(dir: &Path) -> Output {
    Command::new("python3").arg(script("judge.py")).arg(dir).output().unwrap()
}

/// One way to doctor the notes: what the judge must find, in which file, and how its records change.
struct Doctored {
    finds: &'static str,
    file: &'static str,
    change: fn(&mut Vec<Value>),
}

fn last_of<'a>(records: &'a mut [Value], user: &str) -> &'a mut Value {
    records.iter_mut().rfind(|record| record["user"] == user && record["final"] == true).unwrap()
}

const DOCTORED: &[Doctored] = &[
    Doctored {
        finds: "acked events that are not there",
        file: "events-2",
        change: |events| {
            let acked = events.iter().position(|event| event["user_id"] == "quiet-0").unwrap();
            events.remove(acked);
        },
    },
    Doctored {
        finds: "events that are there twice",
        file: "events-2",
        change: |events| events.extend_from_within(..1),
    },
    Doctored {
        finds: "events that nobody sent",
        file: "events-2",
        change: |events| events[0]["user_id"] = json!("quiet-0"),
    },
    Doctored {
        finds: "queries that failed through a living node",
        file: "answers",
        change: |answers| answers[9]["failed"] = json!("503"),
    },
    Doctored {
        finds: "answers with a score of another model version",
        file: "answers",
        change: |answers| last_of(answers, "quiet-0")["version"] = json!(1),
    },
    Doctored {
        finds: "last top-20s that brute force disagrees with",
        file: "answers",
        change: |answers| last_of(answers, "busy-9")["items"].as_array_mut().unwrap().swap(0, 1),
    },
    Doctored {
        finds: "personal answers after an acked opt-out",
        file: "answers",
        change: |answers| last_of(answers, "quiet-1")["items"][0][2] = json!("model"),
    },
    Doctored {
        finds: "answers with an item after its take-down",
        file: "ledger",
        change: |ledger| ledger.iter_mut().find(|line| !line["taken_down"].is_null()).unwrap()["at"] = json!(0.0),
    },
    Doctored {
        finds: "parts of the story that did not happen",
        file: "ledger",
        change: |ledger| ledger.retain(|line| line["killed"].is_null()),
    },
];

/// The notes of `from` with one file changed, in a directory of their own.
fn doctor(from: &Path, doctored: &Doctored) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = dir.path().join(format!("{}.jsonl", doctored.file));
    let text = std::fs::read_to_string(&file).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (doctored.change)(&mut records);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
    dir
}

#[test]
fn the_proof_is_green_and_its_judge_finds_every_kind_of_doctored_notes() {
    let notes = tempfile::tempdir().unwrap();
    let mut proof = Command::new(env!("CARGO_BIN_EXE_docent-proof"));
    let output = proof.args(["--short", "--keep"]).arg(notes.path()).output().unwrap();
    assert!(output.status.success() && printed(&output).contains("\nGREEN\n"), "{}", printed(&output));

    std::thread::scope(|scope| {
        for doctored in DOCTORED {
            let notes = notes.path();
            scope.spawn(move || {
                let output = judge(doctor(notes, doctored).path());
                let text = printed(&output);
                let is_found = text.lines().any(|line| line.contains("RED") && line.contains(doctored.finds));
                assert!(is_found && output.status.code() == Some(1), "not found: {}\n{text}", doctored.finds);
            });
        }
    });
}

#[test]
fn the_sceptic_is_short_and_stands_on_the_standard_library_alone() {
    for name in SCRIPTS {
        let text = std::fs::read_to_string(script(name)).unwrap();
        assert!(text.lines().count() <= LINES_MAX, "{name} is longer than {LINES_MAX} lines");
        let import = text.lines().find_map(|line| line.strip_prefix("import ")).unwrap();
        let standard = "functools http.client json os random signal struct subprocess sys threading time";
        let strange = import.split(", ").find(|module| !standard.split(' ').any(|one| one == *module));
        assert_eq!(strange, None, "{name}");
        let from = text.lines().filter(|line| line.trim_start().starts_with("from "));
        assert!(from.eq(text.lines().filter(|line| *line == "from collections import Counter, defaultdict")), "{name}");
    }
}

//! The binary as scripts meet it: exit codes, messages, files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs `docent` in `dir` with a clean environment.
fn docent(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_docent")).args(args).current_dir(dir).env_clear().output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address at which nobody listens: a port that was free a moment ago and stays bound to nobody.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn an_unreachable_cluster_is_exit_code_3_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let node = nobody();
    for args in [&["status"][..], &["recommend", "u1"], &["jobs"], &["train"], &["export", "events"]] {
        let output = docent(dir.path(), &[args, &["--node", &node]].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&node) && stderr(&output).contains("docent up"), "{}", stderr(&output));
    }
    let output = docent(dir.path(), &["status", "--output", "json", "--node", &node]);
    let error: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["kind"], "unavailable");
    assert!(output.stdout.is_empty());
}

#[test]
fn an_import_that_meets_no_cluster_gives_up_with_the_way_to_resume() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("e.csv"), "user_id,item_id\nu,i\n").unwrap();
    let output = docent(dir.path(), &["import", "csv", "e.csv", "--patience", "0", "--node", &nobody()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("same import again"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("no-header.csv"), "1,2\n").unwrap();
    for args in [
        &["recommend"][..],
        &["no-such-command"],
        &["status", "--node", "nowhere"],
        &["import", "csv", "no-header.csv"],
        &["import", "csv", "no-header.csv", "--batch", "0"],
        &["generate", "--users", "0"],
        &["node", "--config", "missing.toml"],
        &["up", "--nodes", "0", "--data-dir", "d"],
    ] {
        let output = docent(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
}

#[test]
fn the_environment_names_nodes_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for (args, code) in [(&["jobs"][..], 3), (&["up", "--nodes", "0"], 2)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docent"));
        command.args(args).current_dir(dir.path()).env_clear().env("DOCENT_NODES", nobody());
        assert_eq!(command.output().unwrap().status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn a_file_that_is_empty_or_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("empty.csv"), "").unwrap();
    for (file, word) in [("empty.csv", "is empty"), ("missing.csv", "cannot read missing.csv")] {
        let output = docent(dir.path(), &["import", "csv", file]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
}

#[test]
fn a_token_of_a_secret_is_32_and_64_digits() {
    let dir = tempfile::tempdir().unwrap();
    assert!(docent(dir.path(), &["secret", "create", "s"]).status.success());
    let again = docent(dir.path(), &["secret", "create", "s"]);
    assert_eq!(again.status.code(), Some(1), "a secret is never replaced");
    let token = |_| String::from_utf8(docent(dir.path(), &["token", "create", "--secret-file", "s"]).stdout).unwrap();
    let [a, b] = [0, 1].map(token);
    assert_ne!(a, b);
    let (id, mac) = a.trim_end().split_once('.').unwrap();
    assert_eq!((id.len(), mac.len()), (32, 64));
    assert!(a.trim_end().bytes().all(|byte| byte == b'.' || byte.is_ascii_hexdigit()));
}

#[test]
fn generated_files_are_the_same_for_the_same_seed() {
    let dir = tempfile::tempdir().unwrap();
    for (out, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        let output = docent(
            dir.path(),
            &["generate", "--users", "20", "--items", "50", "--events", "300", "--seed", seed, "--out", out],
        );
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let read = |path: &str| std::fs::read(dir.path().join(path)).unwrap();
    for file in ["events.jsonl", "items.jsonl", "users.jsonl"] {
        assert_eq!(read(&format!("a/{file}")), read(&format!("b/{file}")));
        assert_ne!(read(&format!("a/{file}")), read(&format!("c/{file}")));
    }
    assert_eq!(String::from_utf8(read("a/events.jsonl")).unwrap().lines().count(), 300);
}

#[test]
fn up_leaves_a_foreign_directory_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/thesis.tex"), "x").unwrap();
    let output = docent(dir.path(), &["up", "--data-dir", "d"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--data-dir"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(dir.path().join("d")).unwrap().count(), 1);
}

//! `docent up`: a local cluster that leaves nothing behind.

use docent_chaos::client::Client;
use docent_chaos::lab::{docent, lock};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn start(dir: &std::path::Path, base: u16) -> Child {
    let mut command = Command::new(docent().unwrap());
    command
        .args(["up", "--nodes", "1", "--coordinators", "1", "--base-port", &base.to_string(), "--data-dir"])
        .arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Members of the cluster in `dir`, by the settings file that they were started with.
fn members(dir: &std::path::Path) -> Vec<i32> {
    let dir = dir.display().to_string();
    let of = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line.contains(&dir) && line.contains("--config")).then_some(pid)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "not {what}");
        std::thread::sleep(Duration::from_millis(20)); // between looks at other processes
    }
}

#[test]
fn killing_up_leaves_no_orphans_and_a_dead_member_is_told() {
    let _alone = lock().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (data, base) = (dir.path().join("data"), 18_500);
    let client = Client::new(&format!("127.0.0.1:{}", base + 1));

    let mut up = start(&data, base);
    wait_until("ready", || client.is_ready());
    assert_eq!(members(&data).len(), 2);
    up.kill().unwrap();
    up.wait().unwrap();
    wait_until("gone", || members(&data).is_empty());

    // The same directory starts again; other numbers are refused.
    let mut up = start(&data, base);
    wait_until("ready again", || client.is_ready());
    let mut other = Command::new(docent().unwrap());
    let refused = other.args(["up", "--nodes", "3", "--data-dir"]).arg(&data).output().unwrap();
    assert!(!refused.status.success());

    let node = members(&data).into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split('\0').any(|word| word == "node"))
    });
    let node = nix::unistd::Pid::from_raw(node.unwrap());
    nix::sys::signal::kill(node, nix::sys::signal::Signal::SIGKILL).unwrap();
    let told = AtomicBool::new(false);
    let streams: [Box<dyn Read + Send>; 2] = [Box::new(up.stdout.take().unwrap()), Box::new(up.stderr.take().unwrap())];
    std::thread::scope(|scope| {
        for stream in streams {
            scope.spawn(|| {
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                lines.filter(|line| line.contains("still run")).for_each(|_| told.store(true, Ordering::Relaxed));
            });
        }
        wait_until("told of the dead member", || told.load(Ordering::Relaxed));
        assert_eq!(members(&data).len(), 1, "the rest goes on");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(up.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(!up.wait().unwrap().success(), "a run that lost a member must not end with success");
    });
    wait_until("gone", || members(&data).is_empty());
}

//! Entries of 512 B per second with 256 in flight, beside a raw file with one write and one `fdatasync` per batch.
//!
//! `cargo run --release -p docent-journal --example bench [-- DIR [SECONDS]]`

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::bounded;
use docent_journal::{Entry, Journal, Options};
use docent_runtime::disk::RealDisk;

const PAYLOAD_BYTES: usize = 512;
const IN_FLIGHT: usize = 256;
const GROUPS: u64 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from).join("docent-journal-bench");
    let length = Duration::from_secs_f64(args.next().map_or(Ok(2.0), |seconds| seconds.parse())?);
    println!(
        "{PAYLOAD_BYTES} B entries, {IN_FLIGHT} in flight, {GROUPS} groups, {length:?} each, in {}",
        dir.display()
    );
    for round in 1..=3 {
        std::fs::create_dir_all(&dir)?;
        let raw = raw(&dir.join("raw"), length)?;
        let ours = journal(&dir.join("journal"), length)?;
        println!("round {round}: raw {raw:.0} entries/s, journal {ours:.0} entries/s, ratio {:.2}", ours / raw);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures wall time")]
fn now() -> Instant {
    Instant::now()
}

fn raw(path: &Path, length: Duration) -> Result<f64, Box<dyn Error>> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    let batch = vec![7; IN_FLIGHT * PAYLOAD_BYTES];
    let (start, mut entries) = (now(), 0);
    while start.elapsed() < length {
        file.write_all_at(&batch, (entries * PAYLOAD_BYTES) as u64)?;
        file.sync_data()?;
        entries += IN_FLIGHT;
    }
    Ok(entries as f64 / start.elapsed().as_secs_f64())
}

fn journal(dir: &Path, length: Duration) -> Result<f64, Box<dyn Error>> {
    let journal = Journal::open(Options::new(dir), Arc::new(RealDisk))?;
    let logs: Vec<_> = (0..GROUPS).map(|id| journal.group(id)).collect();
    let (sender, answers) = bounded(IN_FLIGHT);
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let (start, mut sent, mut answered) = (now(), 0usize, 0usize);
    while start.elapsed() < length {
        while sent - answered < IN_FLIGHT {
            let (group, index) = (sent as u64 % GROUPS, sent as u64 / GROUPS);
            let sender = sender.clone();
            let entry = Entry { index, term: 1, payload: payload.clone() };
            let log = &logs[usize::try_from(group)?];
            log.append(vec![entry], Box::new(move |result| drop(sender.send(result))));
            // As raft does: what is applied is purged now and then.
            if index % 20_000 == 19_999 {
                log.purge_to(index - 1000, Bytes::new(), Box::new(drop));
            }
            sent += 1;
        }
        answers.recv()??;
        answered += 1;
        while let Ok(answer) = answers.try_recv() {
            answer?;
            answered += 1;
        }
    }
    Ok(answered as f64 / start.elapsed().as_secs_f64())
}

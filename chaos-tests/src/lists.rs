//! Data sets as lists of items a user: gowalla as it is, or the generator's events with a held-out split of their own.

use crate::{data, lab};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A training and a test part, both as files of lines `user item item ...`.
#[derive(Clone, Debug)]
pub struct Split {
    /// What to call it.
    pub name: String,
    /// What `docent import adjacency` reads.
    pub train: PathBuf,
    /// What the answers are measured by.
    pub test: PathBuf,
    /// Whether the thresholds of the acceptance hold for it.
    pub is_gowalla: bool,
}

/// Items by user, both as they are spelled.
pub type Lists = BTreeMap<String, Vec<String>>;

impl Split {
    /// gowalla where this machine has it, else (or where `generated` is asked for) generated data, written into `dir`.
    pub fn find(dir: &Path, generated: bool) -> Result<Split> {
        if generated {
            return Split::generate(dir);
        }
        if let Some(gowalla) = data::shared("gowalla") {
            let part = |name: &str| gowalla.join(name);
            let (train, test) = (part("train.txt"), part("test.txt"));
            return Ok(Split { name: "gowalla".to_owned(), train, test, is_gowalla: true });
        }
        println!("../shared/data/gowalla is not here: running on generated data, without the acceptance's thresholds");
        Split::generate(dir)
    }

    fn generate(dir: &Path) -> Result<Split> {
        let out = dir.join("generated");
        let flags = ["--users", "3000", "--items", "2000", "--events", "150000", "--seed", "7", "--format", "jsonl"];
        let output = Command::new(lab::docent()?).arg("generate").args(flags).arg("--out").arg(&out).output()?;
        ensure!(output.status.success(), "docent generate: {}", String::from_utf8_lossy(&output.stderr));
        let mut lists = Lists::new();
        for line in std::fs::read_to_string(out.join("events.jsonl"))?.lines() {
            let event: Value = serde_json::from_str(line)?;
            let text = |key: &str| event[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {line}"));
            let (user, item) = (text("user_id")?, text("item_id")?);
            let items = lists.entry(user).or_default();
            if !items.contains(&item) {
                items.push(item);
            }
        }
        let (train, test) = (out.join("train.txt"), out.join("test.txt"));
        let (kept, held_out) = hold_out(lists);
        write(&train, &kept)?;
        write(&test, &held_out)?;
        Ok(Split { name: "generated (3,000 users, 2,000 items)".to_owned(), train, test, is_gowalla: false })
    }

    /// How many different items both parts have.
    pub fn items(&self) -> Result<usize> {
        let (train, test) = (read(&self.train)?, read(&self.test)?);
        Ok(train.values().chain(test.values()).flatten().collect::<BTreeSet<_>>().len())
    }
}

/// The last fifth of every list, for users with at least five items.
fn hold_out(lists: Lists) -> (Lists, Lists) {
    let split = |(user, mut items): (String, Vec<String>)| {
        let held_out = items.split_off(items.len() - items.len() / 5);
        ((user.clone(), items), (user, held_out))
    };
    let (kept, held_out): (Lists, Lists) = lists.into_iter().map(split).unzip();
    (kept, held_out.into_iter().filter(|(_, items)| !items.is_empty()).collect())
}

fn write(path: &Path, lists: &Lists) -> Result<()> {
    let mut text = String::new();
    for (user, items) in lists {
        writeln!(text, "{user} {}", items.join(" "))?;
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Reads lines `user item item ...`; white space of any kind separates.
pub fn read(path: &Path) -> Result<Lists> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut lists = Lists::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        let Some(user) = words.next() else { continue };
        let before = lists.insert(user.clone(), words.collect());
        ensure!(before.is_none(), "{}: user {user} has two lines", path.display());
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_held_out_and_nothing_is_in_both() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        let lists = Lists::from([("a".to_owned(), items(10)), ("b".to_owned(), items(4))]);
        let (kept, held_out) = hold_out(lists);
        assert_eq!((kept["a"].len(), kept["b"].len()), (8, 4));
        assert_eq!(held_out, Lists::from([("a".to_owned(), vec!["8".to_owned(), "9".to_owned()])]));
    }
}

//! Data sets with a training and a test part: those beside the repository by their protocols, one in a directory, or the generator's.

use crate::lists::{self, Lists, read};
use crate::{data, lab};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A training and a test part, both as files of lines `user item item ...`.
#[derive(Clone, Debug)]
pub struct Split {
    /// What to call it.
    pub name: String,
    /// What a user has seen; nothing of it may be recommended.
    pub train: PathBuf,
    /// What the answers are measured by.
    pub test: PathBuf,
    /// What `docent import` takes.
    pub import: Vec<String>,
    /// How settings are chosen: `docent evaluate --split`, as the test part was split.
    pub held_out: &'static str,
    /// Whether the thresholds of the acceptance hold for it.
    pub is_gowalla: bool,
}

/// The data sets beside the repository that have a protocol.
pub const KNOWN: [&str; 3] = ["gowalla", "citeulike", "ml-latest-small"];

/// Share of the ratings before the time that the temporal split parts them by.
const BEFORE: f64 = 0.8;

impl Split {
    /// gowalla where this machine has it, else (or where `generated` is asked for) generated data, written into `dir`.
    pub fn find(dir: &Path, generated: bool) -> Result<Split> {
        if generated {
            return Split::generate(dir);
        }
        match data::shared("gowalla") {
            Some(_) => Split::named(dir, "gowalla"),
            None => {
                println!(
                    "../shared/data/gowalla is not here: running on generated data, without the acceptance's thresholds"
                );
                Split::generate(dir)
            }
        }
    }

    /// One of [`KNOWN`], or a directory with train.txt and test.txt. What has to be written goes into `dir`.
    pub fn named(dir: &Path, name: &str) -> Result<Split> {
        if KNOWN.contains(&name) {
            let at = data::shared(name).with_context(|| format!("../shared/data/{name} is not here"))?;
            return match name {
                "citeulike" => Split::citeulike(&at, dir),
                "ml-latest-small" => Split::movielens(&at, dir),
                _ => Split::lists(&at, name),
            };
        }
        let at = Path::new(name);
        ensure!(at.is_dir(), "{name} is neither one of {} nor a directory", KNOWN.join(", "));
        Split::lists(at, name)
    }

    /// train.txt and test.txt of a directory.
    fn lists(at: &Path, name: &str) -> Result<Split> {
        let (train, test) = (at.join("train.txt"), at.join("test.txt"));
        ensure!(train.is_file() && test.is_file(), "{} has no train.txt and test.txt", at.display());
        let import = vec!["adjacency".to_owned(), text(&train)?];
        Ok(Split { name: name.to_owned(), train, test, import, held_out: "random", is_gowalla: name == "gowalla" })
    }

    /// The warm part: pairs of a user and an item, split at random by their authors.
    fn citeulike(at: &Path, dir: &Path) -> Result<Split> {
        let pairs = |name: &str| -> Result<Lists> {
            let path = at.join(name);
            let mut lists = Lists::new();
            for line in std::fs::read_to_string(&path).with_context(|| path.display().to_string())?.lines().skip(1) {
                let (user, item) = line.split_once(',').with_context(|| format!("{}: {line}", path.display()))?;
                lists.entry(user.to_owned()).or_default().push(item.trim().to_owned());
            }
            Ok(lists)
        };
        lists::write(&dir.join("train.txt"), &pairs("warm_emb.csv")?)?;
        lists::write(&dir.join("test.txt"), &pairs("warm_test.csv")?)?;
        Ok(Split { is_gowalla: false, ..Split::lists(dir, "citeulike, warm items")? })
    }

    /// Ratings up to the time that four fifths of them lie before; what users who are known then like later is the test.
    fn movielens(at: &Path, dir: &Path) -> Result<Split> {
        let path = at.join("ratings.csv");
        let text_of = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut ratings = Vec::new();
        for line in text_of.lines().skip(1) {
            let fields: Vec<&str> = line.trim().split(',').collect();
            let [user, item, value, time] = fields[..] else { bail!("{}: {line}", path.display()) };
            ratings.push((time.parse::<i64>()?, user.to_owned(), item.to_owned(), value.parse::<f64>()?));
        }
        let mut times: Vec<i64> = ratings.iter().map(|rating| rating.0).collect();
        times.sort_unstable();
        let parted = times[(times.len() as f64 * BEFORE) as usize];
        let (mut train, mut test, mut events) =
            (Lists::new(), Lists::new(), "user_id,item_id,timestamp,value\n".to_owned());
        for (time, user, item, value) in &ratings {
            if *time < parted {
                writeln!(events, "{user},{item},{time},{value}")?;
                train.entry(user.clone()).or_default().push(item.clone());
            } else if *value >= 3.5 {
                test.entry(user.clone()).or_default().push(item.clone());
            }
        }
        // Who was not there before is a new user: nobody's model tells what such a one likes.
        test.retain(|user, _| train.contains_key(user));
        lists::write(&dir.join("train.txt"), &train)?;
        lists::write(&dir.join("test.txt"), &test)?;
        let file = dir.join("ratings.csv");
        std::fs::write(&file, events)?;
        let import = ["csv", &text(&file)?, "--type", "rating"].map(str::to_owned).to_vec();
        let name = "ml-latest-small, later ratings of 3.5 and more".to_owned();
        Ok(Split { name, import, held_out: "time", ..Split::lists(dir, "")? })
    }

    /// The generator's events, the last fifth of each user's held out; written into `dir`.
    pub fn generate(dir: &Path) -> Result<Split> {
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
        let (kept, held_out) = lists::hold_out(lists);
        lists::write(&train, &kept)?;
        lists::write(&test, &held_out)?;
        Split::lists(&out, "generated (3,000 users, 2,000 items)")
    }

    /// How many different items both parts have.
    pub fn items(&self) -> Result<usize> {
        let (train, test) = (read(&self.train)?, read(&self.test)?);
        Ok(train.values().chain(test.values()).flatten().collect::<BTreeSet<_>>().len())
    }
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("path is not UTF-8")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_here_gives_users_that_are_known_and_items_that_they_have_not_seen() {
        for name in KNOWN.into_iter().filter(|name| data::shared(name).is_some()) {
            let dir = tempfile::tempdir().unwrap();
            let split = Split::named(dir.path(), name).unwrap();
            let (train, test) = (read(&split.train).unwrap(), read(&split.test).unwrap());
            // Few of MovieLens' users come back after a time: most rated everything on one day.
            assert!(test.len() > 20, "{name}: {} users", test.len());
            for (user, items) in &test {
                let seen: BTreeSet<&String> = train.get(user).into_iter().flatten().collect();
                assert!(items.iter().all(|item| !seen.contains(item)), "{name}: user {user}");
            }
        }
    }
}

//! What a cluster spends: CPU time by process, and how busy the machine is with other things.

use crate::lab::{Lab, Member, cpu_seconds};
use anyhow::{Context, Result};

/// CPU seconds by process since each began.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// By member, coordinators first, then `client`: every command that was run and has ended.
    pub seconds: Vec<(String, f64)>,
}

impl Cost {
    /// As it is now.
    pub fn now(lab: &Lab) -> Result<Cost> {
        let members = lab.coordinators.iter().chain(&lab.nodes);
        let of_member = |member: &Member| Ok((member.name.clone(), cpu_seconds(member.pid().context("not running")?)?));
        let mut seconds = members.map(of_member).collect::<Result<Vec<_>>>()?;
        seconds.push(("client".to_owned(), ended_children_seconds()?));
        Ok(Cost { seconds })
    }

    /// What was spent since `before`.
    pub fn since(&self, before: &Cost) -> Cost {
        let both = self.seconds.iter().zip(&before.seconds);
        Cost { seconds: both.map(|((name, now), (_, then))| (name.clone(), now - then)).collect() }
    }

    /// Everything together.
    pub fn sum(&self) -> f64 {
        self.seconds.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Everything but the client.
    pub fn members(&self) -> f64 {
        self.seconds.iter().filter(|(name, _)| name != "client").map(|(_, seconds)| seconds).sum()
    }

    /// `node-1 3.2, ...`, each in seconds.
    pub fn split(&self) -> String {
        self.seconds.iter().map(|(name, seconds)| format!("{name} {seconds:.1}")).collect::<Vec<_>>().join(", ")
    }
}

/// CPU seconds of this process's children that ended and were waited for: the tool's runs (fields 16 and 17 of its stat).
fn ended_children_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().context("malformed stat")?;
    let ticks: u64 = after_name.split_whitespace().skip(13).take(2).map(|t| t.parse::<u64>().unwrap_or(0)).sum();
    Ok(ticks as f64 / 100.0)
}

/// Processes that want a core, mean of the last minute: figures from a busy machine mean less.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The middle of some figures: of an even number the mean of the two in the middle, as one of them would flatter or blacken.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
    (middle(sorted.len().saturating_sub(1) / 2) + middle(sorted.len() / 2)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_differences_by_process() {
        let cost = |a: f64, b: f64| Cost { seconds: vec![("node-1".to_owned(), a), ("client".to_owned(), b)] };
        let spent = cost(5.0, 2.0).since(&cost(1.0, 0.5));
        assert_eq!((spent.sum(), spent.members(), spent.split().as_str()), (5.5, 4.0, "node-1 4.0, client 1.5"));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[5.0, 1.0, 2.0, 9.0]), 3.5);
        assert!(median(&[]).is_nan());
    }
}

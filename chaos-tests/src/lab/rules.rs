//! What is wrong between pairs of members, as data; and the nftables of a member that make it so. Pure.
//!
//! A direction is an ordered pair (from, to). A packet is judged where it arrives, so that a cut is one-way unless both are there; only
//! the rate of a sender is judged where it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// From whom to whom.
pub type Way = (Ipv4Addr, Ipv4Addr);

/// The table in a member's namespace.
const TABLE: &str = "inet docent_lab";

/// How late packets of one direction are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Each of them, in milliseconds.
    pub delay_ms: u32,
    /// More or less by so much, evenly drawn; the order stays.
    pub jitter_ms: u32,
    /// Of a hundred, so many overtake all that wait.
    pub reorder_percent: u8,
    /// Of a hundred, so many come twice.
    pub duplicate_percent: u8,
}

/// Everything that is wrong in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Nothing arrives.
    pub cut: BTreeSet<Way>,
    /// Of a hundred packets, so many are lost.
    pub loss: BTreeMap<Way, u8>,
    /// No more than so many kilobytes a second leave; the rest is lost.
    pub rate: BTreeMap<Ipv4Addr, u32>,
    /// Late, twice, out of turn.
    pub lag: BTreeMap<Way, Lag>,
}

impl Rules {
    /// The whole table of one member, replacing what was there, as `nft -f -` takes it.
    pub fn table(&self, member: Ipv4Addr) -> String {
        let mut text = format!("table {TABLE}\ndelete table {TABLE}\n");
        let (arrivals, departures) = (self.arrivals(member), self.departures(member));
        if arrivals.is_empty() && departures.is_empty() {
            return text;
        }
        let chain = |name: &str, hook: &str, lines: Vec<String>| {
            let rules: String = lines.iter().map(|line| format!("    {line}\n")).collect();
            format!("  chain {name} {{\n    type filter hook {hook} priority 0; policy accept;\n{rules}  }}\n")
        };
        let chains = chain("arrivals", "input", arrivals) + &chain("departures", "output", departures);
        // Writing to a string cannot fail.
        let _written = write!(text, "table {TABLE} {{\n{chains}}}\n");
        text
    }

    fn arrivals(&self, member: Ipv4Addr) -> Vec<String> {
        let cut = self.cut.iter().filter(|way| way.1 == member);
        let cut = cut.map(|(from, _)| format!("ip saddr {from} counter drop"));
        let loss = self.loss.iter().filter(|(way, _)| way.1 == member);
        let loss =
            loss.map(|((from, _), percent)| format!("ip saddr {from} numgen random mod 100 < {percent} counter drop"));
        cut.chain(loss).collect()
    }

    fn departures(&self, member: Ipv4Addr) -> Vec<String> {
        let line = |kbytes: &u32| {
            let burst = (kbytes / 10).max(4);
            format!("oifname != \"lo\" limit rate over {kbytes} kbytes/second burst {burst} kbytes counter drop")
        };
        self.rate.get(&member).map(line).into_iter().collect()
    }

    /// What the forwarder must know: `FROM TO delay_us jitter_us reorder% duplicate%`, a line a direction.
    pub fn lags(&self) -> String {
        let line = |((from, to), lag): (&Way, &Lag)| {
            let Lag { delay_ms, jitter_ms, reorder_percent, duplicate_percent } = lag;
            format!("{from} {to} {} {} {reorder_percent} {duplicate_percent}\n", delay_ms * 1_000, jitter_ms * 1_000)
        };
        self.lag.iter().map(line).collect()
    }

    /// All is well again between these and everybody.
    pub fn heal(&mut self, whom: &BTreeSet<Ipv4Addr>) {
        let stays = |way: &Way| !whom.contains(&way.0) && !whom.contains(&way.1);
        self.cut.retain(|way| stays(way));
        self.loss.retain(|way, _| stays(way));
        self.rate.retain(|member, _| !whom.contains(member));
        self.lag.retain(|way, _| stays(way));
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        *self == Rules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 3, last)
    }

    #[test]
    fn a_direction_is_judged_by_its_receiver_alone() {
        let mut rules = Rules::default();
        rules.cut.insert((at(11), at(12)));
        rules.loss.insert((at(13), at(12)), 25);
        let there = rules.table(at(12));
        assert!(
            there.contains("ip saddr 10.77.3.11 counter drop")
                && there.contains("numgen random mod 100 < 25 counter drop")
        );
        assert_eq!(rules.table(at(11)), "table inet docent_lab\ndelete table inet docent_lab\n");
    }

    #[test]
    fn healing_a_member_leaves_what_is_wrong_between_others() {
        let mut rules = Rules { cut: [(at(11), at(12)), (at(12), at(13))].into(), ..Rules::default() };
        rules.rate.insert(at(11), 100);
        rules.heal(&[at(11)].into());
        assert_eq!(rules, Rules { cut: [(at(12), at(13))].into(), ..Rules::default() });
    }

    #[test]
    fn lags_are_told_in_microseconds() {
        let mut rules = Rules::default();
        let lag = Lag { delay_ms: 20, jitter_ms: 5, reorder_percent: 1, duplicate_percent: 2 };
        rules.lag.insert((at(11), at(12)), lag);
        assert_eq!(rules.lags(), "10.77.3.11 10.77.3.12 20000 5000 1 2\n");
        assert!(!rules.is_empty());
    }
}

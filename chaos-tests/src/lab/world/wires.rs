//! Faults between members: what is cut, lost, late, repeated, bounded, reset.

use super::{Hit, LabWorld, list};
use crate::lab::rules::{Lag, Rules, Way};
use anyhow::{Context, Result, bail};
use docent_trial::{Applied, Fault, Member, Target};
use std::collections::BTreeSet;

impl LabWorld {
    pub(super) fn apply_network(&mut self, fault: &Fault, hit: impl Fn(&Target) -> Hit) -> Result<Applied> {
        let first = whom!(hit(fault.target().context("nobody is named")?));
        match fault {
            Fault::Partition { from, .. } => self.cut(fault, first, from, hit, true),
            Fault::OneWay { to, .. } => self.cut(fault, first, to, hit, false),
            Fault::Bridge { from, through, .. } => {
                // Whoever hears both is on neither side.
                let through = whom!(hit(through));
                let other: BTreeSet<Member> = &(&whom!(hit(from)) - &first) - &through;
                self.cut_between(fault, &(&first - &through), &other, true)
            }
            Fault::Reset(_) => self.reset(first),
            Fault::Bandwidth { kbit, .. } => {
                let kbytes = (kbit / 8).max(1);
                let senders =
                    first.iter().map(|name| Ok((self.address(*name)?, kbytes))).collect::<Result<Vec<_>>>()?;
                self.wrong(fault, first, |rules| rules.rate.extend(senders))
            }
            Fault::Loss { percent, .. } => {
                let ways = self.around(&first)?;
                self.wrong(fault, first, |rules| rules.loss.extend(ways.into_iter().map(|way| (way, *percent))))
            }
            Fault::Delay { ms, .. } => self.lag(fault, first, |lag| lag.delay_ms = *ms),
            Fault::Jitter { ms, .. } => self.lag(fault, first, |lag| lag.jitter_ms = *ms),
            Fault::Reorder { percent, .. } => self.lag(fault, first, |lag| lag.reorder_percent = *percent),
            Fault::Duplicate { percent, .. } => self.lag(fault, first, |lag| lag.duplicate_percent = *percent),
            other => bail!("{other} is no fault of the network"),
        }
    }

    fn cut(
        &mut self,
        fault: &Fault,
        side: BTreeSet<Member>,
        from: &Target,
        hit: impl Fn(&Target) -> Hit,
        both: bool,
    ) -> Result<Applied> {
        let other = whom!(hit(from));
        // The rest is everybody whom the other side does not name.
        let (side, other) = match fault.target() {
            Some(Target::Rest) => (&side - &other, other),
            _ => (side.clone(), &other - &side),
        };
        self.cut_between(fault, &side, &other, both)
    }

    fn cut_between(
        &mut self,
        fault: &Fault,
        side: &BTreeSet<Member>,
        other: &BTreeSet<Member>,
        both: bool,
    ) -> Result<Applied> {
        if side.is_empty() || other.is_empty() {
            return Ok(Applied::skipped(format!("{fault}: a side has nobody")));
        }
        let mut ways = BTreeSet::new();
        for a in side {
            for b in other {
                let way = (self.address(*a)?, self.address(*b)?);
                ways.insert(way);
                if both {
                    ways.insert((way.1, way.0));
                }
            }
        }
        self.wrong(fault, side | other, |rules| rules.cut.extend(ways))
    }

    /// Both directions between these and everybody else, and among these.
    fn around(&self, on: &BTreeSet<Member>) -> Result<BTreeSet<Way>> {
        let mut ways = BTreeSet::new();
        for a in on {
            for b in self.members().into_iter().filter(|b| b != a) {
                let way = (self.address(*a)?, self.address(b)?);
                ways.extend([way, (way.1, way.0)]);
            }
        }
        Ok(ways)
    }

    fn lag(&mut self, fault: &Fault, on: BTreeSet<Member>, change: impl Fn(&mut Lag)) -> Result<Applied> {
        let ways = self.around(&on)?;
        self.wrong(fault, on, |rules| ways.into_iter().for_each(|way| change(rules.lag.entry(way).or_default())))
    }

    /// Adds to what is wrong.
    fn wrong(&mut self, fault: &Fault, on: BTreeSet<Member>, change: impl FnOnce(&mut Rules)) -> Result<Applied> {
        let network = self.lab.network().context("the lab has no network of its own")?;
        let mut rules = network.rules().clone();
        change(&mut rules);
        network.set(rules)?;
        Ok(Applied::installed(fault.to_string(), on))
    }

    fn reset(&mut self, on: BTreeSet<Member>) -> Result<Applied> {
        for name in &on {
            let home = self.member(*name)?.site.home.clone().context("it has no network of its own")?;
            self.lab.network().context("the lab has no network of its own")?.reset(&home)?;
        }
        Ok(Applied::installed(format!("reset the connections of {}", list(&on)), on))
    }

    pub(super) fn heal_network(&mut self, on: &BTreeSet<Member>) -> Result<()> {
        let whom = on.iter().filter_map(|name| self.address(*name).ok()).collect();
        let Some(network) = self.lab.network() else { return Ok(()) };
        let mut rules = network.rules().clone();
        rules.heal(&whom);
        network.set(rules)
    }
}

//! When a dead leader is found out: what timer settings amount to, so that two systems can be compared at equal detection.
//!
//! openraft stands for election once `max + random(min..max)` has passed since it last heard from its leader (a lease of `max`, then the
//! drawn time-out: `RaftCore::handle_tick_election`, `Leased::is_expired`), and looks each tick. etcd stands after `random(T..2T)`, both
//! counted in ticks of a heartbeat interval (`raft.pastElectionTimeout`). Of two survivors the first one to stand counts.

use crate::spread::Spread;

/// Points of each distribution: enough for a millisecond.
const POINTS: u32 = 4_000;

/// openraft's timers, all in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Openraft {
    /// Between heartbeats.
    pub heartbeat: u32,
    /// Shortest drawn time-out.
    pub election_min: u32,
    /// Longest drawn time-out, and the lease before it.
    pub election_max: u32,
    /// Between looks at the clock.
    pub tick: u32,
}

/// What `docent_raft::Options` has by default; its ticks, 13/64 of a heartbeat, lie on a grid of 25 ms.
pub const DOCENT: Openraft = Openraft { heartbeat: 250, election_min: 750, election_max: 1_500, tick: 50 };

/// etcd's timers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Etcd {
    /// Between heartbeats, in milliseconds: the tick.
    pub heartbeat: u32,
    /// The election time-out in ticks.
    pub election_ticks: u32,
}

/// Milliseconds from the last word of a leader until a follower stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Equally likely moments of one follower.
    one: Spread,
}

impl Detection {
    /// When `share` of dead leaders are found out by the first of two followers.
    pub fn first_of_two(&self, share: f64) -> f64 {
        // Both are later than t with probability (1 - F(t))^2.
        self.one.at(1.0 - (1.0 - share).sqrt())
    }

    /// The mean of that.
    pub fn first_of_two_mean(&self) -> f64 {
        Spread::of((0..1_000).map(|point| self.first_of_two((f64::from(point) + 0.5) / 1_000.0))).mean()
    }

    /// `2250-3050 ms, the first of two after 2493 (p50), 2527 (mean)`.
    pub fn describe(&self) -> String {
        let (from, to) = (self.one.at(0.0), self.one.at(1.0));
        let (p50, mean) = (self.first_of_two(0.5), self.first_of_two_mean());
        format!("{from:.0} to {to:.0} ms, the first of two survivors after {p50:.0} ms (p50), {mean:.0} ms (mean)")
    }
}

impl Openraft {
    /// As a node's settings have them, so that what is printed is what runs.
    pub fn settings(&self) -> String {
        let Openraft { heartbeat, election_min, election_max, .. } = self;
        format!(
            "[raft]\nheartbeat_interval_ms = {heartbeat}\nelection_timeout_min_ms = {election_min}\nelection_timeout_max_ms = {election_max}\n"
        )
    }

    /// The lease, the drawn time-out, and the wait for the next look.
    pub fn detection(&self) -> Detection {
        let drawn = f64::from(self.election_max - self.election_min);
        let at = |point: u32| {
            let (share, phase) = pair(point);
            f64::from(self.election_max + self.election_min) + drawn * share + f64::from(self.tick) * phase
        };
        Detection { one: Spread::of((0..POINTS).map(at)) }
    }
}

impl Etcd {
    /// The drawn number of ticks, the first of which comes at any time.
    pub fn detection(&self) -> Detection {
        let ticks = f64::from(self.election_ticks);
        let at = |point: u32| {
            let (share, phase) = pair(point);
            f64::from(self.heartbeat) * ((ticks * (1.0 + share)).floor() - phase)
        };
        Detection { one: Spread::of((0..POINTS).map(at)) }
    }

    /// The election time-out at which half of the dead leaders are found out as soon as by `other`.
    pub fn as_late_as(other: &Detection, heartbeat: u32) -> Etcd {
        let aim = other.first_of_two(0.5);
        let with = |election_ticks: u32| Etcd { heartbeat, election_ticks };
        // etcd wants at least five ticks, and takes at most 50 s.
        let far = |timers: &Etcd| (timers.detection().first_of_two(0.5) - aim).abs();
        let ticks = 5..=(50_000 / heartbeat).min(400);
        ticks.map(with).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(with(5))
    }

    /// The election time-out in milliseconds.
    pub fn election_ms(&self) -> u32 {
        self.heartbeat * self.election_ticks
    }
}

/// Two numbers in [0, 1) that together cover the square evenly (a rank-1 lattice of the golden ratio).
fn pair(point: u32) -> (f64, f64) {
    let share = (f64::from(point) + 0.5) / f64::from(POINTS);
    (share, (f64::from(point) * 0.618_033_988_749_895).fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() < 3.0
    }

    #[test]
    fn openraft_waits_for_the_lease_and_then_for_the_drawn_time_out() {
        let exact = Openraft { tick: 0, ..DOCENT }.detection();
        // Two draws from 750..1500: the smaller has mean 1000 and median 750 + 750 (1 - sqrt(1/2)).
        assert!(is_near(exact.first_of_two_mean(), 2_500.0), "{}", exact.describe());
        assert!(is_near(exact.first_of_two(0.5), 2_250.0 + 750.0 * 0.292_9), "{}", exact.describe());
        assert!(DOCENT.detection().first_of_two(0.5) > exact.first_of_two(0.5));
    }

    #[test]
    fn etcd_is_set_to_find_a_dead_leader_as_late_as_ours() {
        let ours = DOCENT.detection();
        let gap = |heartbeat| {
            let etcd = Etcd::as_late_as(&ours, heartbeat);
            (etcd.detection().first_of_two(0.5) - ours.first_of_two(0.5), etcd)
        };
        let (apart, etcd) = gap(40);
        assert!(apart.abs() <= 1.0, "{apart} ms apart: {etcd:?}");
        assert!(gap(50).0.abs() <= 33.0, "half a tick at most");
        assert_eq!(etcd.election_ms() % etcd.heartbeat, 0, "etcd counts whole ticks");
    }
}

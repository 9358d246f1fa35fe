//! `make bench-failover`: rounds of SIGKILL of the node that leads most shards, under load, beside etcd's leader loss in the same run.
//! Fails where a query through a living node failed, an acked event is lost or doubled, or our median write outage is longer than etcd's.
//!
//! `make bench-drain` (`--drain`): rounds of a planned drain of that node and its return. Fails where a query or a first try of a write
//! failed, an acked event is lost or doubled, or a shard was without a leader, or without an acked write, for too long (p99).
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real processes in real time")]

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use docent_chaos::client::Client;
use docent_chaos::cost::load_average;
use docent_chaos::drain::{self, Watch};
use docent_chaos::etcd::{self, Etcd};
use docent_chaos::failover::{self, Drill, Outage, PROBE_TIMEOUT, Round, first, last};
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::spread::Spread;
use docent_chaos::timers::{self, DOCENT};
use docent_chaos::traffic::{Load, Report, Traffic};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Measures three coordinators and three nodes on this machine, and three members of etcd beside them; or drains one of four nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Drain a node and take it back instead of killing one
    #[arg(long)]
    drain: bool,
    /// Rounds, each one SIGKILL of ours and one of etcd's [default: 30, or 5 drains]
    #[arg(long)]
    rounds: Option<usize>,
    /// With --drain: how long a shard may be without a leader (p99)
    #[arg(long, default_value_t = 200, requires = "drain")]
    unled_max_ms: u32,
    /// Events a second
    #[arg(long, default_value_t = 1_000.0)]
    events: f64,
    /// Events of one user in one request
    #[arg(long, default_value_t = 10)]
    batch: usize,
    /// Queries a second
    #[arg(long, default_value_t = 200.0)]
    queries: f64,
    /// Users, each with a history before the first round
    #[arg(long, default_value_t = 5_000)]
    users: usize,
    /// Items
    #[arg(long, default_value_t = 3_000)]
    items: usize,
    /// How long the cluster is left alone between rounds
    #[arg(long, default_value_t = 1_500)]
    settle_ms: u64,
    /// etcd's heartbeat interval; its election time-out, in whole intervals, is chosen to find a dead leader as late as ours (40 ms allow it to the ms)
    #[arg(long, default_value_t = 40)]
    etcd_heartbeat_ms: u32,
    /// Times that etcd's leader is killed in each round: one of ours gives a figure for each shard that was led, and a median of 30 has an error of 0.1 s
    #[arg(long, default_value_t = 3)]
    etcd_kills: usize,
    /// Without the yardstick
    #[arg(long)]
    without_etcd: bool,
}

/// What etcd's rounds gave: seconds to the first acknowledged write through any survivor.
type Yardstick = Vec<Option<f64>>;

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        args.rounds() > 0 && args.batch > 0 && args.etcd_heartbeat_ms > 0 && args.etcd_kills > 0,
        "rounds, batch, heartbeat and kills must be above 0"
    );
    match args.drain {
        true => drain(&args),
        false => failover(&args),
    }
}

impl Args {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.drain { 5 } else { 30 })
    }

    fn load(&self) -> Load {
        let Args { events, batch, queries, users, items, .. } = *self;
        Load { events, batch, queries, n: 10, users, items }
    }
}

/// What holds for both drills once the load has ended; what is wrong.
fn finish(mut lab: Lab, traffic: &Traffic<'_>, mut wrong: Vec<String>) -> Result<()> {
    lab.wait_ready(Duration::from_secs(90))?;
    let audit = traffic.ledger().audit(&lab);
    match audit {
        Ok(()) => println!("audit: {} acked events, each exported exactly once", traffic.ledger().acked()),
        Err(error) => wrong.push(format!("audit: {error:#}")),
    }
    let complaints = lab.complaints();
    complaints.iter().take(10).for_each(|line| println!("in a log: {line}"));
    println!("{} lines of WARN, ERROR or panic in the logs; load average {}", complaints.len(), load_average());
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

fn drain(args: &Args) -> Result<()> {
    println!(
        "three coordinators, four nodes, RF 3, 8 user and 4 item shards; {} events/s in batches of {} and {} queries/s through all nodes, and a writer a user shard",
        args.events, args.batch, args.queries
    );
    let lab = Lab::start(&Options { nodes: 4, ..Options::default() })?;
    let gateways = Gateways::new(&lab.addresses());
    let traffic = Traffic::new("load", &gateways, args.load());
    let homes = traffic.seed(&lab.client(0), 8)?;
    lab.docent(&["train", "--wait", "--dim", "16", "--epochs", "3", "--holdout", "0"])?;
    let watch = Watch::default();
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| traffic.run());
        let watching = scope.spawn(|| watch.run(&gateways, &homes));
        let outcome = drains(args, &drain::Drill { lab: &lab });
        traffic.stop();
        watch.stop();
        let report = running.join().map_err(|_| anyhow!("the load panicked")).flatten();
        watching.join().map_err(|_| anyhow!("a writer panicked"))?;
        outcome.and(report)
    })?;
    let (findings, ledger) = watch.findings();
    traffic.ledger().absorb(ledger);
    let mut wrong = findings.tell(f64::from(args.unled_max_ms) / 1e3);
    report.tell();
    wrong.extend(report.wrong());
    if let Some(refused) = report.refused.first() {
        wrong.push(format!("{} first tries of writes failed, such as {refused}", report.refused.len()));
    }
    finish(lab, &traffic, wrong)
}

fn drains(args: &Args, drill: &drain::Drill<'_>) -> Result<()> {
    drill.wait_even()?;
    for number in 1..=args.rounds() {
        std::thread::sleep(Duration::from_millis(args.settle_ms)); // a cluster at rest under load: what is measured
        let round = drill.round().with_context(|| format!("round {number}"))?;
        println!(
            "{number:>3}: node {} led {} shards and gave {} replicas away in {:.1} s; even again after {:.1} s",
            round.node, round.led, round.moved, round.took.0, round.took.1
        );
    }
    Ok(())
}

fn failover(args: &Args) -> Result<()> {
    let etcd_timers = timers::Etcd::as_late_as(&DOCENT.detection(), args.etcd_heartbeat_ms);
    introduce(args, etcd_timers)?;
    let mut lab = Lab::start(&Options { node_settings: DOCENT.settings(), ..Options::default() })?;
    let mut etcd = (!args.without_etcd).then(|| Etcd::start(etcd_timers)).transpose()?;
    let gateways = Gateways::new(&lab.addresses());
    let traffic = Traffic::new("load", &gateways, args.load());
    let homes = traffic.seed(&lab.client(0), 8)?;
    lab.docent(&["train", "--wait", "--dim", "16", "--epochs", "3", "--holdout", "0"])?;

    let (rounds, yardstick, report) = std::thread::scope(|scope| {
        let running = scope.spawn(|| traffic.run());
        let drill = Drill { lab: &mut lab, gateways: &gateways, traffic: &traffic, homes: &homes };
        let outcome = rounds(args, drill, &mut etcd);
        traffic.stop();
        let report = running.join().map_err(|_| anyhow!("the load panicked")).flatten();
        outcome.and_then(|(rounds, yardstick)| Ok((rounds, yardstick, report?)))
    })?;
    let wrong = tell(&rounds, &yardstick, &report);
    finish(lab, &traffic, wrong)
}

fn introduce(args: &Args, etcd_timers: timers::Etcd) -> Result<()> {
    println!(
        "three coordinators, three nodes, RF 3, 8 user and 4 item shards; {} events/s in batches of {} and {} queries/s through the living nodes",
        args.events, args.batch, args.queries
    );
    println!("time to find a dead leader, from its last word:");
    println!(
        "  docent: heartbeat {} ms, max {} + random({}..{}) ms, looked at each {} ms: {}",
        DOCENT.heartbeat,
        DOCENT.election_max,
        DOCENT.election_min,
        DOCENT.election_max,
        DOCENT.tick,
        DOCENT.detection().describe()
    );
    if !args.without_etcd {
        println!(
            "  {}: --heartbeat-interval={} --election-timeout={}, random(T..2T): {}",
            etcd::version()?,
            etcd_timers.heartbeat,
            etcd_timers.election_ms(),
            etcd_timers.detection().describe()
        );
    }
    Ok(())
}

/// Ours and etcd's in turn, the load on all the time, so that both meet the same machine.
fn rounds(args: &Args, mut drill: Drill<'_>, etcd: &mut Option<Etcd>) -> Result<(Vec<Round>, Yardstick)> {
    let (mut rounds, mut yardstick) = (Vec::new(), Vec::new());
    for number in 1..=args.rounds() {
        std::thread::sleep(Duration::from_millis(args.settle_ms)); // a cluster at rest under load: what is measured
        let round = drill.round(number).with_context(|| format!("round {number}"))?;
        let of = |pick: fn(&Outage) -> Option<f64>| Spread::of(round.outages.iter().filter_map(pick));
        print!(
            "{number:>3}: {} led {} shards; median of {} user shards: led {:.3} s, write {:.3} s, personal {:.3} s; back after {:.1} s",
            round.victim,
            round.led,
            round.outages.len(),
            of(|outage| outage.led).p50(),
            of(|outage| first(&outage.written)).p50(),
            of(|outage| first(&outage.personal)).p50(),
            round.returned,
        );
        rounds.push(round);
        if let Some(etcd) = etcd {
            let outages = (0..args.etcd_kills).map(|_| etcd_round(etcd, args.settle_ms));
            let outages: Yardstick = outages.collect::<Result<_>>()?;
            print!("; etcd: write {:.3} s", Spread::of(outages.iter().flatten().copied()).p50());
            yardstick.extend(outages);
        }
        println!();
    }
    Ok((rounds, yardstick))
}

/// SIGKILL of etcd's leader while each member takes about as many writes as one of our shards; then it is started again.
fn etcd_round(etcd: &mut Etcd, settle_ms: u64) -> Result<Option<f64>> {
    let (addresses, is_over) = (etcd.addresses(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let clients: Vec<Client> = addresses.iter().map(|addr| Client::with_timeout(addr, PROBE_TIMEOUT)).collect();
            for client in clients.iter().cycle().take_while(|_| !is_over.load(Ordering::SeqCst)) {
                etcd::put(client);
                std::thread::sleep(Duration::from_millis(80)); // 12 writes a second, as a shard of ours gets
            }
        });
        std::thread::sleep(Duration::from_millis(settle_ms)); // under these writes, as ours is under its own
        let outcome = etcd_killed(etcd);
        is_over.store(true, Ordering::SeqCst);
        outcome
    })
}

fn etcd_killed(etcd: &mut Etcd) -> Result<Option<f64>> {
    let leader = etcd.leader()?;
    let survivors = etcd.survivors(leader);
    let killed = Instant::now();
    etcd.kill(leader)?;
    let times: Mutex<Vec<Option<f64>>> = Mutex::default();
    std::thread::scope(|scope| {
        for addr in &survivors {
            scope.spawn(|| {
                let client = Client::with_timeout(addr, PROBE_TIMEOUT);
                let time = failover::first_success(killed, |_| etcd::put(&client));
                times.lock().unwrap_or_else(PoisonError::into_inner).push(time);
            });
        }
    });
    etcd.restart(leader)?;
    Ok(first(&times.into_inner().unwrap_or_default()))
}

/// Prints the figures; what is wrong with them.
fn tell(rounds: &[Round], yardstick: &Yardstick, report: &Report) -> Vec<String> {
    let outages: Vec<&Outage> = rounds.iter().flat_map(|round| &round.outages).collect();
    let of = |pick: &dyn Fn(&Outage) -> Option<f64>| Spread::of(outages.iter().filter_map(|outage| pick(outage)));
    let (written, personal) = (of(&|o| first(&o.written)), of(&|o| first(&o.personal)));
    println!(
        "\n{} rounds, {} times a user shard lost its leader; seconds from the SIGKILL:",
        rounds.len(),
        outages.len()
    );
    println!("  until a survivor stood for election    {}", of(&|o| o.stood));
    println!("  until a survivor led                   {}", of(&|o| o.led));
    println!("  until the first acked write            {written}");
    println!("  ... through the slower gateway         {}", of(&|o| last(&o.written)));
    println!("  until the first personal answer        {personal}");
    println!("  ... through the slower gateway         {}", of(&|o| last(&o.personal)));
    println!("of these, seconds:");
    println!("  from standing to leading               {}", of(&|o| Some(o.led? - o.stood?)));
    let after = |times: fn(&Outage) -> &Vec<Option<f64>>, at_leader: bool| {
        let each = move |o: &&Outage| -> Vec<f64> {
            let places = times(o).iter().enumerate().filter(|(place, _)| (o.leader == Some(*place)) == at_leader);
            places.filter_map(|(_, time)| Some((*time)? - o.led?)).collect()
        };
        Spread::of(outages.iter().flat_map(each))
    };
    println!("  from leading to an ack: leader's node  {}", after(|o| &o.written, true));
    println!("  ... through the other node             {}", after(|o| &o.written, false));
    println!("  to a personal answer: leader's node    {}", after(|o| &o.personal, true));
    println!("  ... through the other node             {}", after(|o| &o.personal, false));
    println!(
        "until the killed node was ready again and caught up, seconds: {}",
        Spread::of(rounds.iter().map(|r| r.returned))
    );
    let etcd = Spread::of(yardstick.iter().flatten().copied());
    if !yardstick.is_empty() {
        println!("etcd, until the first acknowledged write {etcd}");
    }
    report.tell();
    judge(&outages, (&written, &personal, &etcd), yardstick, report)
}

fn judge(
    outages: &[&Outage],
    spreads: (&Spread, &Spread, &Spread),
    yardstick: &Yardstick,
    report: &Report,
) -> Vec<String> {
    let ((written, personal, etcd), mut wrong) = (spreads, report.wrong());
    let endless = outages.iter().filter(|o| last(&o.written).is_none() || last(&o.personal).is_none());
    if let Some(outage) = endless.clone().next() {
        wrong.push(format!("{} outages did not end in 30 s, such as {outage:?}", endless.count()));
    }
    if yardstick.iter().any(Option::is_none) {
        wrong.push("an outage of etcd did not end in 30 s".to_owned());
    }
    if !yardstick.is_empty() && written.p50() > etcd.p50() {
        wrong.push(format!("our p50 write outage, {:.3} s, is longer than etcd's, {:.3} s", written.p50(), etcd.p50()));
    }
    if !yardstick.is_empty() && personal.p50() > etcd.p50() {
        println!(
            "our p50 without personal answers, {:.3} s, is longer than etcd's write outage, {:.3} s",
            personal.p50(),
            etcd.p50()
        );
    }
    wrong
}

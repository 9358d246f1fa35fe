//! Whoever runs the cluster: asks the gateways whether they are ready, and carries the operator's orders to one of them.

use crate::http;
use crate::links::Links;
use crate::net::SimNet;
use docent_trial::{Fault, Member};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

const ROUND: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_millis(2_000);
/// Orders are repeated at other gateways so often.
const REPEATS: usize = 3;

/// A POST to whatever gateway takes it.
#[derive(Clone, Debug)]
pub struct Order {
    /// The fault that it is; `None` for what belongs to every run, or counts as done when it is sent.
    pub fault: Option<Fault>,
    /// Where to.
    pub path: String,
    /// Nodes in it are named by their internal addresses.
    pub body: Value,
}

/// What came of an order.
#[derive(Clone, Debug)]
pub struct Done {
    /// Which.
    pub order: Order,
    /// When it was sent.
    pub from: Duration,
    /// Why it was not carried out; as far as the operator knows.
    pub refusal: Option<String>,
}

/// What the operator knows, and is asked to do. Clones share it.
#[derive(Clone, Default)]
pub struct Desk {
    orders: Rc<RefCell<VecDeque<Order>>>,
    /// Nodes that said they were ready when they were last asked.
    ready: Rc<Cell<usize>>,
    /// Rounds made so far.
    rounds: Rc<Cell<u64>>,
    done: Rc<RefCell<Vec<Done>>>,
}

impl Desk {
    /// Asks for something.
    pub fn order(&self, order: Order) {
        self.orders.borrow_mut().push_back(order);
    }

    /// How many nodes are ready.
    pub fn ready(&self) -> usize {
        self.ready.get()
    }

    /// How often they were asked.
    pub fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// What came of orders since the last call.
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut self.done.borrow_mut())
    }

    /// The operator's work, for ever.
    pub async fn run(self, here: IpAddr, links: Links, gateways: Vec<(Member, String)>) {
        let net = SimNet::new(here, links);
        loop {
            let asked = gateways.iter().map(|(_, addr)| http::ask(&net, addr, "GET", "/readyz", None, PATIENCE));
            let answers = futures::future::join_all(asked).await;
            let is_ready = |answer: &Result<http::Answer, _>| answer.as_ref().is_ok_and(|answer| answer.status == 200);
            self.ready.set(answers.iter().filter(|answer| is_ready(answer)).count());
            self.rounds.set(self.rounds.get() + 1);
            loop {
                let next = self.orders.borrow_mut().pop_front();
                let Some(order) = next else { break };
                let from = turmoil::sim_elapsed().unwrap_or_default();
                let refusal = carry_out(&net, &gateways, &order).await.err();
                self.done.borrow_mut().push(Done { order, from, refusal });
            }
            tokio::time::sleep(ROUND).await; // simulated: between two rounds of asking every node whether it is ready
        }
    }
}

/// Tries one gateway after the other.
async fn carry_out(net: &SimNet, gateways: &[(Member, String)], order: &Order) -> Result<(), String> {
    let mut last = "no gateway answered".to_owned();
    for (_, addr) in gateways.iter().cycle().take(REPEATS) {
        let Some(numbers) = node_numbers(net, addr).await else { continue };
        let mut body = order.body.clone();
        for key in ["node", "from", "to"] {
            let number = body[key].as_str().map(|text| numbers.get(text).copied());
            match number {
                Some(Some(number)) => body[key] = number.into(),
                Some(None) => return Err(format!("{} is in no catalog", body[key])),
                None => {}
            }
        }
        match http::ask(net, addr, "POST", &order.path, Some(&body), PATIENCE).await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => last = format!("{} {}", answer.status, answer.body["error"]["message"]),
            Err(none) => last = none.kind.to_owned(),
        }
    }
    Err(last)
}

/// The catalog's number of every node, by internal address.
async fn node_numbers(net: &SimNet, addr: &str) -> Option<BTreeMap<String, u64>> {
    let answer = http::ask(net, addr, "GET", "/v1/cluster", None, PATIENCE).await.ok()?;
    let nodes = answer.body["nodes"].as_array()?;
    nodes.iter().map(|node| Some((node["internal_addr"].as_str()?.to_owned(), node["id"].as_u64()?))).collect()
}

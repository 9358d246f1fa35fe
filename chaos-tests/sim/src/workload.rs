//! What clients do: a mixture of everything that Docent promises something about, over few users and items, so that calls meet.

use crate::chance::Chance;
use crate::http::{self, NoAnswer};
use crate::links::{Links, Machine};
use crate::net::SimNet;
use crate::reading;
use crate::recorder::Recorder;
use docent_trial::Member;
use docent_trial::history::{Answer, Call, Consent, Outcome, Refusal};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Users whom all clients share.
const USERS: u64 = 10;
/// Items.
pub const ITEMS: u64 = 16;
/// Longer than an election, shorter than a gateway's own patience with a write.
const PATIENCE: Duration = Duration::from_millis(4_000);
/// A client's pause between two calls, in milliseconds.
const PAUSE_MS: (u64, u64) = (30, 150);
/// Events of unknown or refused fate are sent again, under their id, so often.
const REPEATS: u32 = 3;

/// One client.
pub struct Client {
    /// Its number.
    pub number: u32,
    /// Where it is.
    pub here: IpAddr,
    /// Through whom it may go.
    pub gateways: Vec<(Member, String)>,
    /// The network.
    pub links: Links,
    /// What it writes down.
    pub recorder: Recorder,
    /// Its dice.
    pub chance: Chance,
    /// It ends once this is set.
    pub is_over: Rc<Cell<bool>>,
}

/// The name of a user.
pub fn user(number: u64) -> String {
    format!("u{number}")
}

/// The name of an item.
pub fn item(number: u64) -> String {
    format!("i{number}")
}

/// Every user's name.
pub fn users() -> impl Iterator<Item = String> {
    (0..USERS).map(user)
}

impl Client {
    /// Puts the items there, once.
    pub async fn prepare(&mut self) {
        for number in 0..ITEMS {
            let call = Call::PutItem { item: item(number), title: format!("item {number} first") };
            for _ in 0..20 {
                if matches!(self.call(call.clone()).await, Outcome::Ok(_)) {
                    break;
                }
            }
        }
    }

    /// Calls until it is over.
    pub async fn run(mut self) {
        let mut sent = 0;
        let mut session = None;
        while !self.is_over.get() {
            let pause = PAUSE_MS.0 + self.chance.below(PAUSE_MS.1 - PAUSE_MS.0);
            tokio::time::sleep(Duration::from_millis(pause)).await; // simulated: a client thinks
            match self.chance.below(100) {
                0..=54 => {
                    let batch = 1 + self.chance.below(3);
                    let calls = (0..batch).map(|_| self.draw_event(&mut sent)).collect();
                    self.send_events(calls).await;
                }
                55..=69 => {
                    let with = if self.chance.percent(50) { session.take() } else { None };
                    let (user, n) = (user(self.chance.below(USERS)), 5);
                    let call = Call::Recommend { user, n, exclude: BTreeSet::new(), session: with };
                    let outcome = self.call(call).await;
                    if let Outcome::Ok(Answer::Listing(listing)) = outcome {
                        session = listing.session;
                    }
                }
                die => {
                    let call = self.draw_other(die);
                    self.call(call).await;
                }
            }
        }
    }

    fn draw_event(&mut self, sent: &mut u64) -> Call {
        *sent += 1;
        Call::Event {
            event_id: format!("c{}-{sent}", self.number),
            user: user(self.chance.below(USERS)),
            item: item(self.chance.below(ITEMS)),
            event_type: "click".to_owned(),
        }
    }

    fn draw_other(&mut self, die: u64) -> Call {
        let (user, item) = (user(self.chance.below(USERS)), item(self.chance.below(ITEMS)));
        match die {
            70..=73 => Call::SetConsent {
                user,
                consent: Consent {
                    collect: self.chance.percent(80),
                    recommend: self.chance.percent(60),
                    train: self.chance.percent(50),
                },
            },
            74..=77 => Call::ReadConsent { user },
            78..=81 => {
                let count = self.chance.below(4);
                let items = (0..count).map(|_| self::item(self.chance.below(ITEMS))).collect();
                Call::SetBlocks { user, items }
            }
            82..=85 => Call::ReadBlocks { user },
            86..=87 => {
                let value = self.chance.below(1_000_000).to_string();
                Call::PutUser { user, attributes: BTreeMap::from([("mark".to_owned(), value)]) }
            }
            88..=91 => Call::ReadUser { user },
            92 => Call::EraseUser { user },
            93 => Call::TakeDown { item },
            94..=95 => Call::Restore { item },
            96 => Call::PutItem { item, title: format!("title {}", self.chance.below(1_000_000)) },
            97..=98 => Call::ReadItem { item },
            _ => Call::Popular { n: 5 },
        }
    }

    fn draw_gateway(&mut self) -> (Member, String) {
        let place = self.chance.below(self.gateways.len() as u64) as usize;
        self.gateways[place].clone()
    }

    /// One call through a gateway of the client's choice, written down.
    pub async fn call(&mut self, call: Call) -> Outcome {
        let (gateway, addr) = self.draw_gateway();
        let (method, path, body) = request(&call);
        let id = self.recorder.called(self.number, gateway, call.clone());
        let is_up = self.is_up(&addr);
        let answered = self.ask(&addr, method, &path, body.as_ref()).await;
        let outcome = match answered {
            Ok(answer) => reading::outcome(&call, &answer),
            Err(none) => self.no_answer(&none, is_up && self.is_up(&addr)),
        };
        self.recorder.returned(id, outcome.clone());
        outcome
    }

    /// A batch of events; those whose fate is not certain are sent again.
    async fn send_events(&mut self, mut calls: Vec<Call>) {
        for _ in 0..=REPEATS {
            let outcomes = self.post_events(&calls).await;
            let is_open = |outcome: &Outcome| !matches!(outcome, Outcome::Ok(_));
            let left = calls.into_iter().zip(&outcomes).filter(|(_, outcome)| is_open(outcome));
            calls = left.map(|(call, _)| call).collect();
            if calls.is_empty() || self.is_over.get() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50 + self.chance.below(200))).await; // simulated: before the same is sent again
        }
    }

    async fn post_events(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let (gateway, addr) = self.draw_gateway();
        let body = json!({ "events": calls.iter().filter_map(event).collect::<Vec<Value>>() });
        let ids: Vec<u64> = calls.iter().map(|call| self.recorder.called(self.number, gateway, call.clone())).collect();
        let is_up = self.is_up(&addr);
        let outcomes = match self.ask(&addr, "POST", "/v1/events", Some(&body)).await {
            Ok(answer) => reading::event_outcomes(calls.len(), &answer),
            Err(none) => vec![self.no_answer(&none, is_up && self.is_up(&addr)); calls.len()],
        };
        for (id, outcome) in ids.into_iter().zip(&outcomes) {
            self.recorder.returned(id, outcome.clone());
        }
        outcomes
    }

    async fn ask(&self, addr: &str, method: &str, path: &str, body: Option<&Value>) -> Result<http::Answer, NoAnswer> {
        let net = SimNet::new(self.here, self.links.clone());
        http::ask(&net, addr, method, path, body, PATIENCE).await
    }

    /// Whether the machine of an address runs and listens.
    fn is_up(&self, addr: &str) -> bool {
        let host = addr.split(':').next().and_then(|host| host.parse().ok());
        host.is_some_and(|host: IpAddr| self.links.machine(host) == Machine::Up)
    }

    fn no_answer(&self, none: &NoAnswer, was_up: bool) -> Outcome {
        let refusal = Refusal { is_of_gateway: !was_up, ..Refusal::new(none.kind, "") };
        if none.is_unsent { Outcome::Rejected(refusal) } else { Outcome::Unknown(refusal) }
    }
}

fn event(call: &Call) -> Option<Value> {
    match call {
        Call::Event { event_id, user, item, event_type } => {
            Some(json!({ "event_id": event_id, "user_id": user, "item_id": item, "type": event_type }))
        }
        _ => None,
    }
}

/// How a call is written in HTTP: method, path, body.
fn request(call: &Call) -> (&'static str, String, Option<Value>) {
    match call {
        Call::Event { .. } => ("POST", "/v1/events".to_owned(), Some(json!({ "events": [event(call)] }))),
        Call::SetConsent { user, consent } => {
            let Consent { collect, recommend, train } = consent;
            let body = json!({ "collect": collect, "recommend": recommend, "train": train });
            ("PUT", format!("/v1/users/{user}/consent"), Some(body))
        }
        Call::ReadConsent { user } => ("GET", format!("/v1/users/{user}/consent"), None),
        Call::SetBlocks { user, items } => {
            ("PUT", format!("/v1/users/{user}/blocks"), Some(json!({ "item_ids": items })))
        }
        Call::ReadBlocks { user } => ("GET", format!("/v1/users/{user}/blocks"), None),
        Call::PutUser { user, attributes } => {
            ("PUT", format!("/v1/users/{user}"), Some(json!({ "attributes": attributes })))
        }
        Call::ReadUser { user } => ("GET", format!("/v1/users/{user}"), None),
        Call::EraseUser { user } => ("DELETE", format!("/v1/users/{user}"), None),
        Call::PutItem { item, title } => ("PUT", format!("/v1/items/{item}"), Some(json!({ "title": title }))),
        Call::ReadItem { item } => ("GET", format!("/v1/items/{item}"), None),
        Call::DeleteItem { item } => ("DELETE", format!("/v1/items/{item}"), None),
        Call::TakeDown { item } => ("POST", format!("/v1/items/{item}:take-down"), None),
        Call::Restore { item } => ("POST", format!("/v1/items/{item}:restore"), None),
        Call::Recommend { user, n, exclude, session } => {
            let mut body = json!({ "user_id": user, "n": n, "exclude_ids": exclude });
            if let Some(session) = session {
                body["session"] = json!(session);
            }
            ("POST", "/v1/recommend".to_owned(), Some(body))
        }
        Call::Similar { item, n } => ("GET", format!("/v1/items/{item}/similar?n={n}"), None),
        Call::Popular { n } => ("GET", format!("/v1/popular?n={n}"), None),
        Call::ReadCatalog {} => ("GET", "/v1/cluster".to_owned(), None),
        Call::Activate { version } => ("POST", format!("/v1/models/{version}:activate"), Some(json!({}))),
        Call::RollBack {} => ("POST", "/v1/models:rollback".to_owned(), Some(json!({}))),
        Call::Train {} => ("POST", "/v1/jobs".to_owned(), Some(json!({}))),
    }
}

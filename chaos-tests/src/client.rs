//! A client of one node's query port, over HTTP/JSON: what a user of Docent would write.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// Talks to one node.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
}

/// Idle connections that a client keeps.
const CONNECTIONS_KEPT: usize = 256;

/// A status code and a body.
pub type Reply = (u16, Value);

impl Client {
    /// A client of `addr` (`host:port`) that waits longer than any deadline of a node.
    pub fn new(addr: &str) -> Client {
        Client::with_timeout(addr, Duration::from_secs(30))
    }

    /// A client that gives up after `timeout`: what it asked for may have happened.
    pub fn with_timeout(addr: &str, timeout: Duration) -> Client {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // As many as a load keeps busy: a connection a request would use up the machine's ports.
            .max_idle_connections(CONNECTIONS_KEPT)
            .max_idle_connections_per_host(CONNECTIONS_KEPT)
            .build();
        Client { base: format!("http://{addr}"), agent: config.into() }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Reply> {
        let response = self.agent.get(format!("{}{path}", self.base)).call()?;
        read(response)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<Reply> {
        read(self.agent.delete(format!("{}{path}", self.base)).call()?)
    }

    /// POST a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        read(self.agent.post(format!("{}{path}", self.base)).send_json(body)?)
    }

    /// POST raw bytes as JSON.
    pub fn post_raw(&self, path: &str, body: &[u8]) -> Result<Reply> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        read(request.send(body)?)
    }

    /// PUT a JSON body.
    pub fn put(&self, path: &str, body: &Value) -> Result<Reply> {
        read(self.agent.put(format!("{}{path}", self.base)).send_json(body)?)
    }

    /// Whether the node says that every shard has a leader.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// Recommendations for a user; fails on any status but 200.
    pub fn recommend(&self, user: &str, n: u32) -> Result<Value> {
        self.recommend_with(json!({ "user_id": user, "n": n }))
    }

    /// A recommend request as it is; fails on any status but 200.
    pub fn recommend_with(&self, request: Value) -> Result<Value> {
        let (status, body) = self.post("/v1/recommend", &request)?;
        ensure!(status == 200, "recommend answered {status}: {body}");
        Ok(body)
    }

    /// Sends events; the outcomes in order. Fails on any status but 200.
    pub fn ingest(&self, events: &[Value]) -> Result<Vec<String>> {
        let results = self.ingest_results(events)?;
        Ok(results.iter().map(|result| result["outcome"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// As [`Client::ingest`], with all that was said of each event.
    pub fn ingest_results(&self, events: &[Value]) -> Result<Vec<Value>> {
        let (status, body) = self.post("/v1/events", &json!({ "events": events }))?;
        ensure!(status == 200, "events answered {status}: {body}");
        Ok(body["results"].as_array().context("no results")?.clone())
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Reply> {
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(256 << 20).read_to_string()?;
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok((status, value))
}

/// The ids of an answer, best first.
pub fn ids(answer: &Value) -> Vec<String> {
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item["id"].as_str().unwrap_or_default().to_owned()).collect()
}

//! What members say: their log lines, by host, for the checkers and the trace. Turmoil runs each host inside of a span that names it.

use crate::trace::Trace;
use docent_trial::history::Level as Loud;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Of this target are events about applied entries: `group`, `index`, `term`, `hash`.
pub const APPLIED: &str = "docent_raft::applied";

/// Of this target are events about entries that a log dropped because a later leader has others.
pub const TRUNCATED: &str = "docent_raft::truncated";

thread_local! {
    /// The hosts whose spans are entered, innermost last.
    static HOSTS: RefCell<Vec<Arc<str>>> = const { RefCell::new(Vec::new()) };
}

/// The host that runs now.
pub fn host() -> Option<Arc<str>> {
    HOSTS.with_borrow(|hosts| hosts.last().cloned())
}

/// A line of a member's log.
#[derive(Clone, Debug)]
pub struct Line {
    /// Simulated time.
    pub at: Duration,
    /// Whose: a host's name, or empty outside of any.
    pub host: String,
    /// How loud.
    pub level: Loud,
    /// Target, message and fields.
    pub text: String,
}

/// An entry that a replica applied.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    /// Simulated time.
    pub at: Duration,
    /// Whose.
    pub host: String,
    /// The raft group's number.
    pub group: u64,
    /// Its place.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Of its content.
    pub hash: u64,
}

/// What was said so far. Clones share it.
#[derive(Clone, Default)]
pub struct Log {
    shared: Arc<Mutex<Said>>,
}

/// Everything that was said.
#[derive(Default)]
pub struct Said {
    /// Warnings and worse.
    pub lines: Vec<Line>,
    /// Applied entries.
    pub applied: Vec<AppliedEntry>,
    /// How often a log was cut back.
    pub truncations: u64,
}

impl Log {
    /// What was said since the last call.
    pub fn take(&self) -> Said {
        std::mem::take(&mut *self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a line by hand: a panic.
    pub fn say(&self, level: Loud, text: String) {
        let host = host().map_or_else(String::new, |host| host.to_string());
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).lines.push(Line { at, host, level, text });
    }

    /// Listens to this process from now on; `verbose` prints every line to stderr.
    pub fn listen(&self, trace: Trace, verbose: Option<Level>) {
        let listener = Listener { log: self.clone(), trace, verbose, spans: Mutex::default(), next: AtomicU64::new(1) };
        // Fails only where somebody listens already, which in our own process is nobody.
        let _first = tracing::subscriber::set_global_default(listener);
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| {
            if verbose.is_some() {
                eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
            }
            log.say(Loud::Panic, panic.to_string());
        }));
    }
}

struct Listener {
    log: Log,
    trace: Trace,
    verbose: Option<Level>,
    spans: Mutex<BTreeMap<u64, Arc<str>>>,
    next: AtomicU64,
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    numbers: BTreeMap<&'static str, u64>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.insert(field.name(), value);
        let _never = write!(self.rest, " {}={value}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => drop(write!(self.rest, " {name}={value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _never = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }
}

struct Name(Option<Arc<str>>);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = Some(value.into());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

fn is_host_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == "node" && metadata.target().starts_with("turmoil")
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return is_host_span(metadata);
        }
        let loudest = self.verbose.unwrap_or(Level::WARN).max(Level::WARN);
        [APPLIED, TRUNCATED].contains(&metadata.target())
            || (metadata.target().starts_with("docent") && *metadata.level() <= loudest)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut name = Name(None);
        span.record(&mut name);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(name) = name.0 {
            self.spans.lock().unwrap_or_else(PoisonError::into_inner).insert(id, name);
        }
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let host = host().map_or_else(String::new, |host| host.to_string());
        let number = |name: &str| fields.numbers.get(name).copied().unwrap_or_default();
        if event.metadata().target() == APPLIED {
            let (group, index, term, hash) = (number("group"), number("index"), number("term"), number("hash"));
            self.trace.note(at, "applied", format_args!("{host} {group} {index} {term} {hash:016x}"));
            let mut said = self.log.shared.lock().unwrap_or_else(PoisonError::into_inner);
            said.applied.push(AppliedEntry { at, host, group, index, term, hash });
            return;
        }
        if event.metadata().target() == TRUNCATED {
            self.trace.note(at, "truncated", format_args!("{host}{}", fields.rest));
            self.log.shared.lock().unwrap_or_else(PoisonError::into_inner).truncations += 1;
            return;
        }
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let text = format!("{target}: {}{}", fields.message, fields.rest);
        if self.verbose.is_some() {
            eprintln!("{:>9.3} {host:<14} {level:<5} {text}", at.as_secs_f64());
        }
        let loud = if level == Level::ERROR { Loud::Error } else { Loud::Warn };
        if level <= Level::WARN {
            self.trace.note(at, "said", format_args!("{host} {level} {text}"));
            let mut said = self.log.shared.lock().unwrap_or_else(PoisonError::into_inner);
            said.lines.push(Line { at, host, level: loud, text });
        }
    }

    fn enter(&self, id: &Id) {
        let name = self.spans.lock().unwrap_or_else(PoisonError::into_inner).get(&id.into_u64()).cloned();
        HOSTS.with_borrow_mut(|hosts| hosts.push(name.unwrap_or_else(|| "".into())));
    }

    fn exit(&self, _: &Id) {
        HOSTS.with_borrow_mut(|hosts| drop(hosts.pop()));
    }

    fn try_close(&self, id: Id) -> bool {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.into_u64());
        true
    }
}

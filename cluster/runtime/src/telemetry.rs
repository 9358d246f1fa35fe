//! Logs and metrics of a process. Neither ever carries an external user id.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How a process logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Filter in `tracing`'s syntax: `info`, `docent_raft=debug,info`.
    pub log: String,
    /// `text` for people, `json` for machines.
    pub format: Format,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        // openraft speaks up about every election; what matters of it is in our own metrics and logs.
        Settings { log: "info,openraft=off".to_owned(), format: Format::Text }
    }
}

/// Latency buckets, seconds: 0.1 ms to 10 s.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Renders the metrics of this process in Prometheus' text form.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The text form.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Starts logs (to standard error) and metrics of this process; once per process.
pub fn start(settings: &Settings) -> Result<Metrics, String> {
    let filter =
        EnvFilter::try_new(&settings.log).map_err(|error| format!("telemetry.log {:?}: {error}", settings.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    let started = match settings.format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
    started.map_err(|error| format!("logs were started twice: {error}"))?;
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(|error| error.to_string())?;
    builder.install_recorder().map(Metrics).map_err(|error| format!("metrics were started twice: {error}"))
}

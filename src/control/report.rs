//! How the server is: what `--status` prints, for people or as JSON.

use serde::Serialize;
use std::fmt;

/// See the module. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// The master's.
    pub pid: u32,
    pub state: State,
    /// Of the configuration: grows with each reload that changed something.
    pub generation: u64,
    pub uptime_ms: u64,
    pub wanted_workers: usize,
    /// Workers that have ended without having been told to.
    pub deaths: u64,
    pub workers: Vec<Worker>,
    /// What is served, and where: `http 127.0.0.1:7500`.
    pub listeners: Vec<String>,
    pub devices: Vec<Device>,
    /// The last one's outcome; None: there was none.
    pub reload: Option<Reload>,
    pub upgrade: Upgrade,
    /// The master that has executed us, as long as it lives.
    pub predecessor: Option<u32>,
}

/// What the master is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Starting,
    Serving,
    /// It has sent its workers home, by WINCH, and can have new ones.
    Retired,
    Stopping,
}

/// A worker process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worker {
    /// What the operator counts; a successor and the one that drains share it.
    pub worker: usize,
    /// Its line on the scoreboard: its own.
    pub slot: usize,
    pub pid: u32,
    pub generation: u64,
    /// The scoreboard's word: from `born` to `ready`, and `draining`.
    pub state: &'static str,
    pub uptime_ms: u64,
    pub connections: u64,
    /// Consumers that serve somebody.
    pub busy: u64,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Since its housekeeper was last heard of.
    pub heartbeat_ms: u64,
    pub elected: bool,
    pub last_error: Option<String>,
}

/// A directory of a docroot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// The docroot.
    pub site: String,
    pub name: String,
    pub state: &'static str,
    /// Percent; None: nobody knows.
    pub utilization: Option<f64>,
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reload {
    pub ok: bool,
    pub text: String,
    pub ago_ms: u64,
}

/// How far an upgrade is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    pub state: Phase,
    /// The successor's.
    pub pid: Option<u32>,
    /// What was last said of one.
    pub text: String,
}

/// See [`Upgrade`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    None,
    Starting,
    Bound,
    Ready,
    Committed,
    #[serde(rename = "rolling back")]
    RollingBack,
}

impl Report {
    /// One line.
    pub fn json(&self) -> String {
        // Only maps with other keys than texts cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Its name in JSON is its name for people.
fn name(of: impl Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "rmogstored {}, pid {}, {} for {}, generation {}",
            self.version,
            self.pid,
            name(self.state),
            Span(self.uptime_ms),
            self.generation
        )?;
        if let Some(pid) = self.predecessor {
            writeln!(f, "beside its predecessor, pid {pid}")?;
        }
        let upgrade = &self.upgrade;
        if upgrade.state != Phase::None || !upgrade.text.is_empty() {
            write!(f, "upgrade: {}", name(upgrade.state))?;
            if let Some(pid) = upgrade.pid {
                write!(f, ", pid {pid}")?;
            }
            writeln!(f, "{}{}", comma(&upgrade.text), upgrade.text)?;
        }
        if let Some(reload) = &self.reload {
            let outcome = if reload.ok { "ok" } else { "failed" };
            let (ago, text) = (Span(reload.ago_ms), &reload.text);
            writeln!(f, "last reload: {outcome}, {ago} ago{}{text}", comma(text))?;
        }
        for listener in &self.listeners {
            writeln!(f, "listening on {listener}")?;
        }
        self.workers(f)?;
        for device in &self.devices {
            write!(f, "device {} of {}: ", device.name, device.site)?;
            match device.utilization {
                Some(percent) => writeln!(f, "{}, {percent} % busy", device.state)?,
                None => writeln!(f, "{}", device.state)?,
            }
        }
        Ok(())
    }
}

impl Report {
    fn workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.workers.iter().filter(|w| w.state == "ready").count();
        writeln!(
            f,
            "workers: {ready} of {} ready, {} died",
            self.wanted_workers, self.deaths
        )?;
        if self.workers.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "{:>6} {:>8} {:>4} {:<10} {:>9} {:>7} {:>5} {:>10} {:>9} {:>9} {:>6}",
            "nr",
            "pid",
            "gen",
            "state",
            "since",
            "clients",
            "busy",
            "requests",
            "in",
            "out",
            "tick"
        )?;
        for worker in &self.workers {
            write!(
                f,
                "{:>6} {:>8} {:>4} {:<10} {:>9} {:>7} {:>5} {:>10} {:>9} {:>9} {:>6}",
                worker.worker,
                worker.pid,
                worker.generation,
                worker.state,
                Span(worker.uptime_ms).to_string(),
                worker.connections,
                worker.busy,
                worker.requests,
                Bytes(worker.bytes_in).to_string(),
                Bytes(worker.bytes_out).to_string(),
                Span(worker.heartbeat_ms).to_string(),
            )?;
            writeln!(f, "{}", if worker.elected { "  elected" } else { "" })?;
            if let Some(error) = &worker.last_error {
                writeln!(f, "{:>6} last error: {error}", "")?;
            }
        }
        Ok(())
    }
}

fn comma(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ": " }
}

/// Milliseconds, in the two units that matter.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match self.0 {
            0..10_000 => write!(f, "{}.{}s", seconds, self.0 % 1000 / 100),
            10_000..60_000 => write!(f, "{seconds}s"),
            60_000..3_600_000 => write!(f, "{minutes}m{:02}s", seconds % 60),
            3_600_000..86_400_000 => write!(f, "{hours}h{:02}m", minutes % 60),
            _ => write!(f, "{days}d{:02}h", hours % 24),
        }
    }
}

/// Bytes, to three digits or four.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let unit = (self.0.max(1).ilog2() / 10) as usize;
        let whole = self.0 >> (10 * unit);
        if unit == 0 || whole >= 10 {
            return write!(f, "{whole}{}", UNITS[unit]);
        }
        let tenths = (self.0 >> (10 * (unit - 1))) % 1024 * 10 / 1024;
        write!(f, "{whole}.{tenths}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            version: "1.2.3",
            pid: 7,
            state: State::Serving,
            generation: 2,
            uptime_ms: 3_723_000,
            wanted_workers: 2,
            deaths: 1,
            workers: vec![Worker {
                worker: 0,
                slot: 64,
                pid: 8,
                generation: 2,
                state: "ready",
                uptime_ms: 61_000,
                connections: 3,
                busy: 1,
                requests: 1000,
                bytes_in: 1536,
                bytes_out: 50 << 30,
                heartbeat_ms: 300,
                elected: true,
                last_error: Some("EIO".to_owned()),
            }],
            listeners: vec!["http 127.0.0.1:1".to_owned()],
            devices: vec![Device {
                site: "/srv".to_owned(),
                name: "dev1".to_owned(),
                state: "good",
                utilization: Some(12.5),
            }],
            reload: Some(Reload {
                ok: false,
                text: "x.conf:1: unknown key".to_owned(),
                ago_ms: 1000,
            }),
            upgrade: Upgrade {
                state: Phase::RollingBack,
                pid: Some(9),
                text: String::new(),
            },
            predecessor: None,
        }
    }

    /// What scripts rely on.
    #[test]
    fn as_json() {
        assert_eq!(
            report().json(),
            concat!(
                r#"{"version":"1.2.3","pid":7,"state":"serving","generation":2,"#,
                r#""uptime_ms":3723000,"wanted_workers":2,"deaths":1,"workers":["#,
                r#"{"worker":0,"slot":64,"pid":8,"generation":2,"state":"ready","#,
                r#""uptime_ms":61000,"connections":3,"busy":1,"requests":1000,"#,
                r#""bytes_in":1536,"bytes_out":53687091200,"heartbeat_ms":300,"#,
                r#""elected":true,"last_error":"EIO"}],"listeners":["http 127.0.0.1:1"],"#,
                r#""devices":[{"site":"/srv","name":"dev1","state":"good","#,
                r#""utilization":12.5}],"reload":{"ok":false,"#,
                r#""text":"x.conf:1: unknown key","ago_ms":1000},"#,
                r#""upgrade":{"state":"rolling back","pid":9,"text":""},"#,
                r#""predecessor":null}"#
            )
        );
    }

    #[test]
    fn for_people() {
        let text = report().to_string();
        for line in [
            "rmogstored 1.2.3, pid 7, serving for 1h02m, generation 2\n",
            "upgrade: rolling back, pid 9\n",
            "last reload: failed, 1.0s ago: x.conf:1: unknown key\n",
            "listening on http 127.0.0.1:1\n",
            "workers: 1 of 2 ready, 1 died\n",
            "  1.5KiB     50GiB   0.3s  elected\n",
            " last error: EIO\n",
            "device dev1 of /srv: good, 12.5 % busy\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("predecessor"));
    }

    #[test]
    fn spans_and_bytes() {
        let spans = [0, 9_999, 10_000, 59_999, 60_000, 86_400_000 * 400];
        let spans = spans.map(|ms| Span(ms).to_string());
        assert_eq!(spans, ["0.0s", "9.9s", "10s", "59s", "1m00s", "400d00h"]);
        let bytes = [0, 1023, 1024, 10 * 1024, (1 << 20) - 1, u64::MAX];
        let bytes = bytes.map(|bytes| Bytes(bytes).to_string());
        assert_eq!(
            bytes,
            ["0B", "1023B", "1.0KiB", "10KiB", "1023KiB", "15EiB"]
        );
    }
}

//! How the server is, put together for who asks.

use super::Master;
use super::stop::Stopping;
use crate::control::Report;
use crate::control::report;
use crate::scoreboard::Device;
use std::time::Instant;

fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

impl Master {
    pub(super) fn report(&self) -> Report {
        let upgrade = self.upgrade.report();
        let listeners = self.listeners.iter();
        Report {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            state: match self.stopping {
                Stopping::No if !self.started => report::State::Starting,
                Stopping::No if self.is_retired => report::State::Retired,
                Stopping::No => report::State::Serving,
                _ => report::State::Stopping,
            },
            generation: self.children.generation(),
            uptime_ms: ms(self.since),
            wanted_workers: self.children.wanted(),
            deaths: self.children.deaths(),
            workers: self.report_workers(),
            listeners: listeners
                .map(|one| format!("{} {}", one.serves, one.address))
                .collect(),
            devices: self.report_devices(),
            reload: self.reload.last().map(|(at, outcome)| report::Reload {
                ok: outcome.is_ok(),
                text: match outcome {
                    Ok(text) | Err(text) => text.clone(),
                },
                ago_ms: ms(*at),
            }),
            upgrade,
            predecessor: self
                .predecessor
                .as_ref()
                .filter(|one| one.is_alive())
                .map(|one| one.pid()),
        }
    }

    fn report_workers(&self) -> Vec<report::Worker> {
        let leader = self.scoreboard.leader().map(|leader| leader.pid);
        let workers = self.children.list();
        workers
            .map(|(slot, pid)| {
                let line = self.scoreboard.slot(slot);
                let (worker, generation) = line.worker();
                let (connections, busy) = line.load();
                let counts = line.counts();
                report::Worker {
                    worker,
                    slot,
                    pid,
                    generation,
                    state: line.state().name(),
                    uptime_ms: line.uptime_ms(),
                    connections,
                    busy,
                    requests: counts.requests,
                    bytes_in: counts.bytes_in,
                    bytes_out: counts.bytes_out,
                    heartbeat_ms: line.silent_for(),
                    elected: leader == Some(pid),
                    last_error: line.last_error(),
                }
            })
            .collect()
    }

    fn report_devices(&self) -> Vec<report::Device> {
        let rows = self.scoreboard.rows();
        rows.filter_map(|(_, row)| {
            let (site, name) = row.device()?;
            let docroot = &self.config.sites.get(site)?.docroot;
            Some(report::Device {
                site: docroot.display().to_string(),
                name: name.to_string(),
                state: match row.state() {
                    Device::Dead => "dead",
                    _ => "alive",
                },
                utilization: row
                    .util()
                    .and_then(|util| str::from_utf8(&util).ok()?.parse().ok()),
            })
        })
        .collect()
    }
}

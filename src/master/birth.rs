//! The child's side of a fork becomes a worker: a copy of the master, or a fresh
//! image of the program.

use super::Master;
use super::children::Heir;
use crate::config::ExecWorkers;
use crate::sys::process;
use crate::worker::image::Parcel;
use crate::worker::{self, Door, Start};
use std::io;
use std::os::fd::AsFd;

impl Master {
    /// On the child's side of the fork: from here on this process is a worker.
    /// What the master owns lies dead in its memory and is never dropped.
    pub(super) fn become_worker(&mut self, heir: Heir) -> ! {
        let nr = heir.nr;
        let doors = std::mem::take(&mut self.listeners).into_iter();
        let doors: Vec<Door> = doors
            .map(|listener| Door {
                is_lent: listener.is_lent(),
                site: listener.site,
                serves: listener.serves,
                listener: listener.into_socket(),
            })
            .collect();
        let is_image = match self.config.supervision.exec_workers {
            ExecWorkers::Always => true,
            ExecWorkers::Never => false,
            ExecWorkers::Auto => self.children.looks_corrupt(nr),
        };
        let end = if is_image {
            self.become_image(heir, &doors)
        } else {
            self.become_copy(heir, doors)
        };
        let code = end.unwrap_or_else(|e| {
            log::error!("worker {nr}: after the fork: {e}");
            1
        });
        process::exit(code)
    }

    fn become_copy(&self, heir: Heir, doors: Vec<Door>) -> io::Result<i32> {
        let (nr, slot) = (heir.nr, heir.slot);
        let keep: Vec<_> = doors.iter().map(|door| door.listener.as_fd()).collect();
        let (channel, signals) = heir.settle(&keep)?;
        Ok(worker::run(Start {
            nr,
            slot,
            config: self.config.clone(),
            doors,
            run: self.run.clone(),
            channel,
            scoreboard: self.scoreboard.clone(),
            consumers: self.consumers,
            umask: self.umask,
            signals,
            privileges: self.privileges.clone(),
        }))
    }

    fn become_image(&self, heir: Heir, doors: &[Door]) -> io::Result<i32> {
        let (nr, slot) = (heir.nr, heir.slot);
        let mut keep: Vec<_> = doors.iter().map(|door| door.listener.as_fd()).collect();
        keep.extend(self.image.fds());
        let channel = heir.pack(&keep)?;
        Err(self.image.exec(&Parcel {
            nr,
            slot,
            consumers: self.consumers,
            umask: self.umask,
            privileges: &self.privileges,
            run: &self.run,
            channel: &channel,
            doors,
        }))
    }
}
